"""Summaries: layouts, references, and ROUGE against an implementation of its own."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.task import Setting
from everlong.evaluate.tasks.booksum import ROUGE, Booksum, rouge
from tests.evaluate.fakes import EchoStream
from tests.models.tiny import byte_tokenizer

SQUALITY = {
    "document": "Once there was a tide. It rose.",
    "questions": [
        {"question_text": "Why?", "question_number": 2, "responses": [{"response_text": "Because of the moon."}]},
        {
            "question_text": "What is the plot?",
            "question_number": 1,
            "responses": [{"response_text": "A tide rose."}, {"response_text": "The tides are rising."}],
        },
    ],
}
QMSUM = {
    "meeting_transcripts": [{"speaker": "Ann", "content": "Hello ."}, {"speaker": "Ben", "content": "Let us end ."}],
    "general_query_list": [{"query": "Sum it up.", "answer": "They met."}],
    "specific_query_list": [{"query": "Who ended it?", "answer": "Ben did."}],
}
PLAIN = {"document": "A long book.", "references": ["A book.", "It is long."]}


def written(folder, **files):
    for name, rows in files.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Setting(byte_tokenizer(), Data(folder))


def test_squality_asks_for_the_plot_first(tmp_path):
    setting = written(tmp_path, squality=[SQUALITY, SQUALITY])
    first, second = Booksum().make_samples(setting)
    assert (first.id, second.id, first.group) == ("squality-dev-0", "squality-dev-1", "squality")
    assert first.context == SQUALITY["document"]
    assert "What is the plot?" in first.question
    assert first.gold == ("A tide rose.", "The tides are rising.")
    (both, _) = Booksum(questions=5).make_samples(setting)
    assert [q for q, _ in both.facts["asked"]] == ["What is the plot?", "Why?"]


def test_qmsum_and_plain_files(tmp_path):
    setting = written(tmp_path, qmsum=[QMSUM], booksum=[PLAIN, PLAIN | {"references": "One.", "question": "What?"}])
    meeting, book, other = Booksum(subsets=("qmsum", "booksum"), questions=2).make_samples(setting)
    assert meeting.context == "Ann: Hello .\nBen: Let us end ."
    assert meeting.facts["asked"] == [("Sum it up.", ("They met.",)), ("Who ended it?", ("Ben did.",))]
    assert (book.gold, other.gold) == (("A book.", "It is long."), ("One.",))
    assert "What?" in other.question
    assert [s.group for s in (meeting, book, other)] == ["qmsum", "booksum", "booksum"]


def test_gold_scores_one_and_silence_nothing(tmp_path):
    setting = written(tmp_path, squality=[SQUALITY], qmsum=[QMSUM], booksum=[PLAIN])
    task = Booksum(subsets=("squality", "qmsum", "booksum"), questions=2)
    for sample in task.make_samples(setting):
        right = {question: gold[-1] for question, gold in sample.facts["asked"]}
        stream = EchoStream(lambda text, question, right=right: next(a for q, a in right.items() if q in question))
        found = list(task.run(stream, sample))
        assert [o.score for o in found] == [1.0] * len(right)
        assert [o.part for o in found] == [str(n) for n in range(len(right))]
        assert [asked.keep for asked in stream.asked] == [False] * (len(right) - 1) + [True]
        assert stream.text.startswith(sample.context)
        silent = list(task.run(EchoStream(), sample))
        assert all(o.score == 0 and set(o.scores.values()) == {0.0} for o in silent)
        assert task.score(sample.gold[0], sample) == 1
        assert task.score("", sample) == 0


def test_rouge_by_hand():
    assert rouge("the cats sat", ["the cat sat down"]) == pytest.approx(
        {"rouge1": 2 * 1 * 0.75 / 1.75, "rouge2": 2 * 1 * (2 / 3) / (5 / 3), "rougeL": 2 * 1 * 0.75 / 1.75}
    )
    assert rouge("sat cat the", ["the cat sat"])["rougeL"] == pytest.approx(1 / 3)
    assert rouge("a b", ["a x", "x b", "a b c d"]) == pytest.approx({"rouge1": 2 / 3, "rouge2": 0.5, "rougeL": 2 / 3})
    assert rouge("words", []) == dict.fromkeys(ROUGE, 0.0)


def _words(text):
    from nltk.stem.porter import PorterStemmer

    stem = PorterStemmer().stem
    return [stem(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]


def _f(same, a, b):
    return 2 * same / (a + b) if same else 0.0


def _naive(prediction, reference):
    """F1 of ROUGE-1, 2 and L, written from Lin's definitions."""
    a, b = _words(prediction), _words(reference)
    found = {}
    for n in (1, 2):
        grams = [Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (a, b)]
        found[f"rouge{n}"] = _f((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())
    rows = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            rows[i + 1][j + 1] = rows[i][j] + 1 if x == y else max(rows[i][j + 1], rows[i + 1][j])
    return found | {"rougeL": _f(rows[-1][-1], len(a), len(b))}


def test_rouge_equals_its_definition():
    rng, words = random.Random(7), re.split(" ", "tides rising, the Harbours ran running; gulls' cries -- 12 a boat.")
    for _ in range(40):
        prediction, *references = (" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(4))
        every = [_naive(prediction, reference) for reference in references]
        assert rouge(prediction, references) == pytest.approx({n: max(e[n] for e in every) for n in ROUGE})


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"document": "A text."}, "lacks the field 'questions'"),
        ({"document": "A text.", "questions": [{"question_number": 1}]}, "text 1 is not of the official layout"),
        ({"document": 3, "questions": []}, "text 1 is not of the official layout"),
        ({"document": "A text.", "questions": []}, "text 1 has no words, question or reference"),
        (SQUALITY | {"document": " "}, "text 1 has no words"),
    ],
)
def test_damaged_files(tmp_path, row, words):
    with pytest.raises(InputError, match=words) as caught:
        list(Booksum().make_samples(written(tmp_path, squality=[row])))
    assert "\n" not in str(caught.value)


def test_bad_options(tmp_path):
    for options, words in [
        ({"subsets": ("squalty",)}, "subsets=squalty: does not exist; did you mean 'squality'"),
        ({"subsets": ()}, "subsets="),
        ({"questions": 0}, "questions=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Booksum(**options)
    with pytest.raises(InputError, match="has no qmsum/"):
        list(Booksum(subsets=("qmsum",)).make_samples(Setting(byte_tokenizer(), Data(tmp_path))))


def test_real_files(data_dir):
    setting = Setting(byte_tokenizer(), Data(data_dir))
    samples = list(Booksum(subsets=("squality", "qmsum")).make_samples(setting))
    stories = [s for s in samples if s.group == "squality"]
    assert (len(stories), len(samples)) == (25, 60)
    assert all(len(s.gold) == 4 and "plot" in s.question for s in stories)
    for sample in samples[:10]:
        assert Booksum().score(sample.gold[0], sample) == 1
