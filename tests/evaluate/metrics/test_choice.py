"""Classes, passages, counts and lines of code: by hand here, over real answers in test_longbench."""

from __future__ import annotations

import importlib.util
import random
import sys

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.metrics import choice
from everlong.evaluate.metrics.packages import package
from tests.evaluate.metrics import naive

CLASSES = ["Date", "Food", "Other food", "Food and drink", "Lasting date", "Animal"]


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("Date", "Date", 1.0),
        ("It is a Date or an Animal", "Date", 1 / 2),
        ("Animal", "Date", 0.0),
        ("Food and drink", "Food and drink", 1.0),
        ("Food and drink", "Food", 1 / 2),
        ("date", "Date", 0.0),
        ("", "Date", 0.0),
    ],
)
def test_a_class_that_is_named(prediction, gold, score):
    assert choice.classification(prediction, gold, CLASSES) == score


def test_the_class_behind_a_removed_one_is_not_looked_at():
    classes = ["Food", "drink", "Food and drink"]
    assert choice.classification("Food and drink", "Food and drink", classes) == 1 / 2
    assert choice.classification("Food and drink", "Food and drink", classes[:1] + classes[2:]) == 1


def test_classes_as_an_independent_implementation_counts_them():
    rng, scores = random.Random(3), []
    for _ in range(500):
        said, gold = " ".join(rng.choices([*CLASSES, "a", "Food"], k=rng.randint(0, 4))), rng.choice(CLASSES)
        classes = rng.sample(CLASSES, 6)
        scores.append(choice.classification(said, gold, classes))
        assert scores[-1] == naive.classification(said, gold, classes)
    assert {0.0, 1.0, 1 / 2, 1 / 3} <= set(scores)


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("Paragraph 19", "Paragraph 19", 1.0),
        ("19", "Paragraph 19", 1.0),
        ("Paragraph 1", "Paragraph 19", 0.0),
        ("19, 19 and 20", "Paragraph 19", 2 / 3),
        ("段落5", "段落5", 1.0),
        ("none", "段落5", 0.0),
        ("5", "five", 0.0),
    ],
)
def test_the_number_of_a_passage(prediction, gold, score):
    assert choice.retrieval(prediction, gold) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "gold", "score"), [("46", "46", 1.0), ("4.6", "46", 0.0), ("46 of 50", "46", 0.5), ("", "46", 0.0)]
)
def test_a_count(prediction, gold, score):
    assert choice.count(prediction, gold) == score


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("x = 1", "x = 1", 1.0),
        ("\n\nx = 1\ny = 2", "x = 1", 1.0),
        ("```python\n# one\nx = 1  // two\nx = 1", "x = 1", 1.0),
        ("abcd", "bcde", 0.75),
        ("# x = 1", "x = 1", 0.0),
        ("\n \nx = 1", "x = 1", 0.33),
        ("", "x = 1", 0.0),
    ],
)
def test_a_line_of_code(prediction, gold, score):
    assert choice.code_similarity(prediction, gold) == score


def test_lines_of_code_as_difflib_compares_them():
    if importlib.util.find_spec("Levenshtein"):
        pytest.skip("fuzzywuzzy takes Levenshtein where it is installed")
    rng = random.Random(4)
    for _ in range(200):
        said, gold = ("".join(rng.choices("ab =()\n#`/", k=rng.randint(0, 30))) for _ in range(2))
        gold = gold.replace("\n", "") or "a"
        assert choice.code_similarity(said, gold) == naive.code_similarity(said, gold)


@pytest.mark.parametrize("name", ["rouge", "fuzzywuzzy.fuzz", "jieba", "rouge_score.rouge_scorer"])
def test_a_missing_package_is_named_with_the_extra_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"^{name.split('.')[0]}: not installed; .* pip install 'everlong\[eval\]'$"):
        package(name)
