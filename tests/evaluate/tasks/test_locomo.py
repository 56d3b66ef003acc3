"""LoCoMo's layout and scorer, the latter against its rules written out in another way."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.locomo import CATEGORIES, NOTHING, Locomo, judged
from tests.evaluate.fakes import EchoSession, EchoStream
from tests.models.tiny import byte_tokenizer

TALK = {
    "speaker_a": "Ann",
    "speaker_b": "Ben",
    "session_1_date_time": "1:56 pm on 8 May, 2023",
    "session_1": [
        {"speaker": "Ann", "dia_id": "D1:1", "text": "I painted the harbour."},
        {
            "speaker": "Ben",
            "dia_id": "D1:2",
            "text": "Look!",
            "img_url": ["u"],
            "blip_caption": "a dog",
            "query": "dog",
        },
    ],
    "session_10_date_time": "3:00 pm on 1 July, 2023",
    "session_10": [{"speaker": "Ann", "dia_id": "D10:1", "text": "It won a prize."}],
    "session_2_date_time": "10:00 am on 9 June, 2023",
    "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "I learn the cello."}],
    "session_3_date_time": "never",
    "session_4_date_time": "neither",
    "session_4": [],
}
QA = [
    {"question": "What did they do?", "answer": "painting, cello", "evidence": ["D1:1", "D2:1"], "category": 1},
    {"question": "When was the prize?", "answer": 2023, "evidence": ["D10:1"], "category": 2},
    {"question": "Is Ann gifted?", "answer": "Likely yes; she won", "evidence": ["D10:1"], "category": 3},
    {"question": "What does Ben learn?", "answer": "the cello", "evidence": ["D2:1"], "category": 4},
    {"question": "What does Ann learn?", "adversarial_answer": "the cello", "evidence": ["D2:1"], "category": 5},
    {"question": "What was painted?", "answer": "a harbour", "evidence": ["D1:1"], "category": 4},
]
ROW = {"sample_id": "conv-1", "conversation": TALK, "qa": QA, "event_summary": {}, "observation": {}}


def written(folder, *rows):
    (folder / "locomo").mkdir(exist_ok=True)
    (folder / "locomo" / "locomo10.json").write_text(json.dumps(list(rows)))
    return Setting(byte_tokenizer(), Data(folder))


def only(folder, **options):
    (sample,) = Locomo(**options).make_samples(written(folder, ROW))
    return sample


def test_sessions_are_sources_in_the_order_of_their_numbers(tmp_path):
    sample = only(tmp_path)
    assert sample.id == "conv-1"
    parts = [(p.source, sample.context[p.start : p.end]) for p in sample.facts["parts"]]
    assert [name for name, _ in parts] == ["session_1", "session_2", "session_10"]
    assert "1:56 pm on 8 May, 2023\nAnn: I painted the harbour.\nBen: Look! (shows a picture: a dog)\n" in parts[0][1]
    assert parts[0][1].startswith("Talks of Ann and Ben")
    assert "neither" not in sample.context
    stream = EchoStream()
    list(Locomo().run(stream, sample))
    assert stream.fed == [(text, name) for name, text in parts]


def test_gold_scores_one_and_silence_nothing(tmp_path):
    sample = only(tmp_path)
    right = {one.question: one.gold for one in sample.facts["asked"]}
    stream = EchoStream(lambda text, question: f" {next(a for q, a in right.items() if q in question)}.")
    found = list(Locomo().run(stream, sample))
    assert [o.score for o in found] == [1.0] * 6
    assert [o.group for o in found] == [CATEGORIES[one["category"]] for one in QA]
    assert [o.part for o in found] == ["0", "1", "2", "3", "4", "5"]
    assert all(not asked.keep and asked.stop == ("\n",) for asked in stream.asked)
    assert stream.text == sample.context
    assert [o.score for o in Locomo().run(EchoStream(), sample)] == [0.0] * 6
    assert (Locomo().score(sample.gold[0], sample), Locomo().score("", sample)) == (1, 0)


def test_questions_are_asked_as_their_category_needs(tmp_path):
    asked = only(tmp_path).facts["asked"]
    assert (QA[2]["answer"], asked[2].gold) == ("Likely yes; she won", "Likely yes")
    assert asked[1].question == "When was the prize? Give the date."
    assert "the cello" in asked[4].question
    assert NOTHING in asked[4].question
    assert asked[4].gold == NOTHING
    orders = {
        next(Locomo().make_samples(Setting(byte_tokenizer(), Data(tmp_path), seed))).facts["asked"][4].question
        for seed in range(8)
    }
    assert len(orders) == 2
    assert only(tmp_path) == only(tmp_path)


def test_only_some_questions(tmp_path):
    assert [one.question for one in only(tmp_path, subsets=("single-hop",)).facts["asked"]] == [
        "What does Ben learn?",
        "What was painted?",
    ]
    assert len(only(tmp_path, questions=1).facts["asked"]) == 5
    assert list(Locomo(subsets=("temporal",)).make_samples(written(tmp_path, ROW | {"qa": QA[3:]}))) == []


@pytest.mark.parametrize(
    ("answer", "gold", "category", "expected"),
    [
        ("They were painting", "paints", 4, 0.5),
        ("a dog and the cat", "dogs, cats", 4, 1.0),
        ("cats", "dogs, cats", 1, 0.5),
        ("cats, dogs", "dogs, cats", 1, 1.0),
        ("cats and dogs", "dogs, cats", 1, 2 / 3),
        ("likely yes", "Likely yes", 3, 1.0),
        ("likely yes; she won", "Likely yes", 3, 2 * 2 / 6),
        ("It is Not mentioned.", NOTHING, 5, 1.0),
        ("No information available", NOTHING, 5, 1.0),
        ("No information", NOTHING, 5, 0.0),
        ("the cello", NOTHING, 5, 0.0),
        ("", "", 4, 0.0),
    ],
)
def test_scores_by_hand(answer, gold, category, expected):
    assert judged(answer, gold, category) == pytest.approx(expected)


def _stems(text):
    from nltk.stem.porter import PorterStemmer

    words = "".join(c for c in text.lower() if c not in string.punctuation).split()
    return [PorterStemmer().stem(word) for word in words if word not in ("a", "an", "the", "and")]


def _f1(a, b):
    a, b = _stems(a), _stems(b)
    left = Counter(b)
    same = sum(1 for word in a if left[word] > 0 and not left.subtract([word]))
    return 2 * (same / len(a)) * (same / len(b)) / (same / len(a) + same / len(b)) if same else 0.0


def test_f1_equals_the_rules_written_out():
    rng, words = random.Random(3), re.split(" ", "The tides, rising and a harbour; Gulls' running ran boats, 12 boat")
    for _ in range(60):
        answer, gold = (" ".join(rng.choices(words, k=rng.randint(1, 8))) for _ in range(2))
        assert judged(answer, gold, 4) == pytest.approx(_f1(answer, gold))
        parts = [max(_f1(a, g) for a in answer.split(",")) for g in gold.split(",")]
        assert judged(answer, gold, 1) == pytest.approx(sum(parts) / len(parts))


def test_citations_hit_the_sessions_with_evidence(tmp_path):
    sample = only(tmp_path, subsets=("single-hop",))
    found = list(Locomo().run(EchoStream(lambda text, question: " cello", session=EchoSession()), sample))
    assert [o.scores for o in found] == [{"citation": 1.0}, {"citation": 0.0}]
    assert [o.scores for o in Locomo().run(EchoStream(), sample)] == [{}, {}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"qa": []}, "lacks the field 'conversation'"),
        (ROW | {"conversation": {"speaker_a": "Ann", "speaker_b": "Ben"}}, "conv-1 has no session_1"),
        (ROW | {"conversation": TALK | {"session_1": [{"text": "x"}]}}, "conv-1 is not of the official layout"),
        (ROW | {"conversation": ["x"]}, "conv-1"),
        (ROW | {"qa": [{"question": "Who?", "category": 4}]}, "question 1 of conv-1 is not of the official layout"),
        (ROW | {"qa": [QA[0] | {"category": 9}]}, "question 1 of conv-1 is not of the official layout"),
        (ROW | {"qa": ["Who?"]}, "question 1 of conv-1 is not of the official layout"),
    ],
)
def test_damaged_files(tmp_path, row, words):
    with pytest.raises(InputError, match=words) as caught:
        list(Locomo().make_samples(written(tmp_path, row)))
    assert "\n" not in str(caught.value)


def test_bad_options():
    for options, words in [
        ({"subsets": ("single",)}, "subsets=single: does not exist; did you mean 'single-hop'"),
        ({"questions": -1}, "questions=-1: must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Locomo(**options)
