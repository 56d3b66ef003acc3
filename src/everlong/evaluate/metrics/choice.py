"""LongBench's scores of short answers: a class, the number of a passage, a count, a line of code (its `metrics.py`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from everlong.evaluate.metrics.packages import package

_NUMBER = re.compile(r"\d+")
_PASSAGE = re.compile(r"(?:Paragraph |段落)(\d+)")
_COMMENTS = ("`", "#", "//")


def classification(prediction: str, gold: str, classes: Sequence[str]) -> float:
    """1 over the number of classes that the prediction names, if the right one is among them.

    LongBench `classification_score`. A class that is part of the right one's name is not counted, but as the official
    scorer removes it from the list that it walks along, the class behind it is not looked at.

    >>> classification("Sport or Food", "Food", ["Food", "Sport", "Date"]), classification("Date", "Food", ["Food"])
    (0.5, 0.0)
    """
    named = [name for name in classes if name in prediction]
    at = 0
    while at < len(named):
        if named[at] in gold and named[at] != gold:
            named.remove(named[at])
        at += 1
    return 1 / len(named) if gold in named else 0.0


def retrieval(prediction: str, gold: str) -> float:
    """The share of the right passage's number among the numbers in the prediction; the gold is "Paragraph 3" or 段落3.

    LongBench `retrieval_score` and `retrieval_zh_score`.

    >>> retrieval("Paragraph 3, not 30", "Paragraph 3"), retrieval("段落3", "段落3"), retrieval("", "Paragraph 3")
    (0.5, 1.0, 0.0)
    """
    right = _PASSAGE.search(gold)
    return count(prediction, right[1]) if right else 0.0


def count(prediction: str, gold: str) -> float:
    """The share of the right number among the numbers in the prediction.

    LongBench `count_score`.

    >>> count("7 or 8", "7"), count("none", "7")
    (0.5, 0.0)
    """
    numbers = _NUMBER.findall(prediction)
    return numbers.count(gold) / len(numbers) if numbers else 0.0


def code_similarity(prediction: str, gold: str) -> float:
    r"""How like the right line the first line of code is, in hundredths: fuzzywuzzy's ratio.

    LongBench `code_sim_score`. A line with a backtick, # or // is not code. fuzzywuzzy takes difflib, or the package
    Levenshtein where that is installed, which gives other ratios; LongBench does not require it. Below: 2 * 5 / (5 + 6)
    characters.

    >>> code_similarity("# sum\nx = y", "x = y2")
    0.91
    >>> code_similarity("# sum", "x = y")
    0.0
    """
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in _COMMENTS)), "")
    return package("fuzzywuzzy.fuzz").ratio(code, gold) / 100
