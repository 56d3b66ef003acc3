"""LongMemEval's layout: sessions by date, questions with and without an answer, and what stands in for the judge."""

from __future__ import annotations

import json

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.longmemeval import TYPES, Longmemeval
from tests.evaluate.fakes import EchoSession, EchoStream
from tests.models.tiny import byte_tokenizer

ROW = {
    "question_id": "e47",
    "question_type": "single-session-user",
    "question": "What is my dog called?",
    "answer": "Old Pepper",
    "question_date": "2023/05/30 (Tue) 23:40",
    "haystack_dates": ["2023/05/25 (Thu) 01:01", "2023/05/20 (Sat) 02:21"],
    "haystack_session_ids": ["later", "answer_1"],
    "haystack_sessions": [
        [{"role": "user", "content": "What is a tide? "}, {"role": "assistant", "content": "Water that\nrises."}],
        [{"role": "user", "content": "My dog is called Old Pepper.", "has_answer": True}],
    ],
    "answer_session_ids": ["answer_1"],
}
NONE = ROW | {
    "question_id": "e48_abs",
    "question_type": "multi-session",
    "question": "What is my cat called?",
    "answer": "You did not mention this information. You mentioned a dog.",
}


def written(folder, *rows, name="longmemeval_s_cleaned.json"):
    (folder / "longmemeval").mkdir(exist_ok=True)
    (folder / "longmemeval" / name).write_text(json.dumps(list(rows)))
    return Setting(byte_tokenizer(), Data(folder))


def outcome(sample, answer, session=None):
    stream = EchoStream(lambda text, question: answer, session=session)
    (found,) = Longmemeval().run(stream, sample)
    return found, stream


def test_sessions_are_read_in_the_order_of_their_dates(tmp_path):
    first, second = Longmemeval().make_samples(written(tmp_path, ROW, NONE))
    assert [(s.id, s.group) for s in (first, second)] == [("e47", "single-session-user"), ("e48_abs", "multi-session")]
    _, stream = outcome(first, "x")
    assert stream.fed == [
        ("\n\n2023/05/20 (Sat) 02:21\nUser: My dog is called Old Pepper.\n", "answer_1"),
        ("\n\n2023/05/25 (Thu) 01:01\nUser: What is a tide?\nAssistant: Water that\nrises.\n", "later"),
    ]
    assert "".join(text for text, _ in stream.fed) == first.context
    assert stream.asked[0].question == "\n\n2023/05/30 (Tue) 23:40\nQuestion: What is my dog called?\nShort answer:"


@pytest.mark.parametrize(
    ("answer", "f1", "contains"),
    [
        (" Old Pepper.", 1.0, 1.0),
        ("", 0.0, 0.0),
        ("It is old pepper", 2 * 2 / 6, 1.0),
        ("Pepper, the old one", 2 * 2 / 5, 0.0),
    ],
)
def test_scores_by_hand(tmp_path, answer, f1, contains):
    (sample,) = Longmemeval().make_samples(written(tmp_path, ROW))
    found, _ = outcome(sample, answer)
    assert (found.score, found.scores) == (pytest.approx(f1), {"contains": contains})


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (NONE["answer"], 1.0),
        ("You didn\N{RIGHT SINGLE QUOTATION MARK}t mention a cat.", 1.0),
        ("The information provided is not enough.", 1.0),
        ("Old Pepper", 0.0),
        ("", 0.0),
    ],
)
def test_a_question_without_an_answer(tmp_path, answer, score):
    (sample,) = Longmemeval().make_samples(written(tmp_path, NONE))
    found, _ = outcome(sample, answer)
    assert (found.score, found.scores) == (score, {"contains": score})


def test_citations_hit_the_session_with_evidence(tmp_path):
    sample, none = Longmemeval().make_samples(written(tmp_path, ROW, NONE))
    assert outcome(sample, "Old Pepper", EchoSession())[0].scores == {"contains": 1.0, "citation": 1.0}
    assert outcome(sample, "rises", EchoSession())[0].scores == {"contains": 0.0, "citation": 0.0}
    assert "citation" not in outcome(none, "Old Pepper", EchoSession())[0].scores


def test_splits_types_and_numbers(tmp_path):
    written(tmp_path, ROW | {"question_id": "oracle"}, name="longmemeval_oracle.json")
    setting = written(tmp_path, ROW, NONE | {"answer": 3})
    assert [s.id for s in Longmemeval(split="oracle").make_samples(setting)] == ["oracle"]
    (sample,) = Longmemeval(subsets=("multi-session",)).make_samples(setting)
    assert sample.gold == ("3",)
    with pytest.raises(InputError, match=r"has no longmemeval/longmemeval_m\.json or longmemeval_m_\*\.json"):
        list(Longmemeval(split="m").make_samples(setting))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({k: v for k, v in ROW.items() if k != "haystack_dates"}, "lacks the field 'haystack_dates'"),
        (ROW | {"haystack_dates": ["one"]}, "question e47 has 1 dates, 2 sessions and 2 ids"),
        (ROW | {"haystack_sessions": [["x"], []]}, "question e47 is not of the official layout"),
        (ROW | {"haystack_dates": None}, "question e47 is not of the official layout"),
    ],
)
def test_damaged_files(tmp_path, row, words):
    with pytest.raises(InputError, match=words) as caught:
        list(Longmemeval().make_samples(written(tmp_path, row)))
    assert "\n" not in str(caught.value)


def test_bad_options():
    for options, words in [
        ({"split": "l"}, "split=l: does not exist; known: m, oracle, s"),
        ({"subsets": ("multi",)}, "subsets=multi: does not exist; did you mean 'multi-session'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Longmemeval(**options)
    assert len(set(TYPES)) == 6
