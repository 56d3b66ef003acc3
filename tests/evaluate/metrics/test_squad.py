"""F1 of words against hand-computed examples and against the formula written out in another way."""

from __future__ import annotations

import random
import re

import pytest

from everlong.evaluate.metrics.squad import contains, f1, normalised, overlap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's  hat, and an owl.", "cats hat and owl"),
        ("  A\tTHE an\n", ""),
        ("A man, a plan: Panama!", "man plan panama"),
        ("theory of Anaheim", "theory of anaheim"),
        ("3.14 (about)", "314 about"),
    ],
)
def test_words_are_normalised(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("Paris", ["paris."], 1.0),
        ("", ["paris"], 0.0),
        ("", [""], 0.0),
        ("anything", [], 0.0),
        ("the", ["a"], 0.0),
        ("in the city of Paris", ["Paris"], 2 * (1 / 4) * 1 / (1 / 4 + 1)),
        ("red red hat", ["red hat hat"], 2 / 3),
        ("red hat", ["blue hat", "red hat now"], 0.8),
    ],
)
def test_f1_by_hand(prediction, gold, expected):
    assert f1(prediction, gold) == pytest.approx(expected)


def test_f1_equals_the_formula_of_precision_and_recall():
    rng = random.Random(5)
    for _ in range(50):
        a, b = ([rng.choice("abcdefg") + "x" for _ in range(rng.randint(1, 9))] for _ in range(2))
        left, same = list(b), 0
        for word in a:
            if word in left:
                left.remove(word)
                same += 1
        expected = 0.0 if not same else 2 * same / len(a) * same / len(b) / (same / len(a) + same / len(b))
        assert overlap(a, b) == pytest.approx(expected)
        assert f1(" ".join(a).upper(), ["the " + ", ".join(b)]) == pytest.approx(expected)


def test_other_words_may_be_dropped():
    assert normalised("a cat and the dog", re.compile(r"\b(cat|and)\b")) == "a the dog"


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("It was the Red, hat.", ["red hat"], True),
        ("It was red.", ["red hat"], False),
        ("a redhat", ["red hat"], False),
        ("predict", ["red"], False),
        ("seven", ["6", "7", "Seven!"], True),
        ("anything", [""], False),
        ("", ["red"], False),
    ],
)
def test_containment_is_of_whole_words(prediction, gold, expected):
    assert contains(prediction, gold) is expected
