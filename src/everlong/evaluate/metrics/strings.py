"""Answers judged by what stands in them, as the authors of retrieval tests do it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

_DIGITS = re.compile(r"\d+")


def first_number(prediction: str) -> str:
    """The first run of digits; empty without any.

    InfiniteBench judges its retrieval of numbers so (arXiv 2402.13718), and LongEval its lines.

    >>> first_number("It is 0042, not 17.")
    '0042'
    """
    found = _DIGITS.search(prediction)
    return found[0] if found else ""


def share_found(prediction: str, gold: Sequence[str]) -> float:
    """The share of the right answers that stand in the prediction, in any case: RULER's string match of all.

    >>> share_found("Amber and FIG", ["fig", "oak"])
    0.5
    """
    said = prediction.lower()
    return sum(answer.lower() in said for answer in gold) / len(gold)


def any_found(prediction: str, gold: Sequence[str]) -> float:
    """1 if one of the right answers stands in the prediction, in any case: RULER's string match of a part.

    >>> any_found("Amber and FIG", ["fig", "oak"])
    1.0
    """
    return float(share_found(prediction, gold) > 0)


def words_named(prediction: str, words: Collection[str]) -> set[str]:
    """Those of the words (lower case) that stand in the prediction, whole and in any case.

    >>> sorted(words_named("None: the Milk, not an apple.", {"one", "milk", "apple"}))
    ['apple', 'milk']
    """
    return set(re.findall(r"\w+", prediction.lower())) & set(words)
