"""ROUGE-L of two packages: counted by hand, and against an independent implementation over real summaries."""

from __future__ import annotations

import json
import sys

import pytest

from everlong.evaluate.metrics import rouge
from tests.evaluate.metrics import naive


@pytest.mark.parametrize(
    ("prediction", "gold", "f"),
    [
        ("tide rose", "tide rose", 1.0),
        ("w1 w2 w6. w1 w3 w8 w5", "w1 w2 w3 w4 w5", 2 * (4 / 5) * (4 / 6) / (4 / 5 + 4 / 6)),
        ("the the the", "the sea", 2 * 1 * (1 / 2) / (1 + 1 / 2)),
        ("rose tide", "tide rose", 1 / 2),
        ("gulls", "tide rose", 0.0),
        ("", "tide", 0.0),
        ("...", "tide", 0.0),
        ("tide", "", 0.0),
    ],
)
def test_the_union_of_common_words_by_hand(prediction, gold, f):
    assert rouge.rouge_l(prediction, gold) == pytest.approx(f, abs=1e-8)


def test_the_epsilon_of_the_package_stays():
    assert rouge.rouge_l("tide rose", "tide rose") == 2 / (2 + 1e-8) < 1


def test_chinese_by_its_words():
    assert rouge.rouge_l_zh("我在北京", "在北京") == pytest.approx(0.8)
    assert rouge.rouge_l_zh("", "在北京") == 0


@pytest.mark.parametrize(
    ("prediction", "golds", "f"),
    [
        ("Tide rose.", ["tide rose"], 1.0),
        ("a b\nc d", ["c d\na b"], 1.0),
        ("a b c d", ["c d a b"], 0.5),
        ("a b", ["x", "a b c d"], 2 / 3),
        ("", ["x"], 0.0),
    ],
)
def test_lines_are_sentences_and_the_best_reference_counts(prediction, golds, f):
    assert rouge.rouge_lsum(prediction, golds) == pytest.approx(f)


def test_long_sentences_do_not_depend_on_the_frames_that_are_open():
    limit = sys.getrecursionlimit()
    words = " ".join(f"w{n}" for n in range(limit + 1))
    assert rouge.rouge_l("w0", words) == pytest.approx(2 / (limit + 2))
    assert sys.getrecursionlimit() == limit


def test_real_summaries_as_an_independent_implementation_counts_them(data_dir):
    file = data_dir / "longbench" / "minilongbench.jsonl"
    if not file.is_file():
        pytest.skip(f"needs real predictions: {file} is missing")
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [row for row in found if row["dataset"] in ("gov_report", "multi_news", "qmsum")]
    assert len(found) >= 20
    for row in found:
        mine = rouge.rouge_lsum(row["example_prediction"], row["answers"])
        assert mine == pytest.approx(naive.best(naive.rouge_lsum)(row["example_prediction"], row["answers"]), abs=1e-12)
        assert 0 < mine < 1
