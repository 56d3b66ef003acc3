"""F1 of answers: counted by hand here; against an independent implementation over real answers in test_longbench."""

from __future__ import annotations

import json

import pytest

from everlong.evaluate.metrics import qa
from tests.evaluate.metrics import naive


@pytest.mark.parametrize(
    ("prediction", "gold", "f1"),
    [
        ("Paris", "Paris", 1.0),
        ("The PARIS!", "paris", 1.0),
        ("in Paris", "Paris", 2 / 3),
        ("red red hat", "red hat hat", 2 / 3),
        ("“the” end", "end", 1 / 2),
        ("theatre", "atre", 0.0),
        ("", "Paris", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_english_words(prediction, gold, f1):
    assert qa.f1(prediction, gold) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "gold", "words", "characters"),
    [
        ("北京", "北京。", 1.0, 1.0),
        ("我在北京。", "在 北京", 0.8, 6 / 7),
        ("《红楼梦》", "红楼梦", 2 / 3, 6 / 7),
        ("ＡＢ，ab", "ab", None, 2 * 2 / (4 + 2)),
        ("", "北京", 0.0, 0.0),
        ("。", "，", 0.0, 0.0),
    ],
)
def test_chinese_words_and_characters(prediction, gold, words, characters):
    assert qa.f1_characters(prediction, gold) == pytest.approx(characters)
    assert words is None or qa.f1_zh(prediction, gold) == pytest.approx(words)


def test_real_answers_by_characters_as_an_independent_implementation_counts_them(data_dir):
    file = data_dir / "longbench" / "minilongbench.jsonl"
    if not file.is_file():
        pytest.skip(f"needs real predictions: {file} is missing")
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [row for row in found if row["dataset"] in ("multifieldqa_zh", "dureader", "vcsum")]
    assert len(found) >= 20
    scores = []
    for row in found:
        for gold in row["answers"]:
            scores.append(qa.f1_characters(row["example_prediction"], gold))
            assert scores[-1] == pytest.approx(naive.f1_characters(row["example_prediction"], gold), abs=1e-12)
    assert sum(score > 0 for score in scores) > 10
