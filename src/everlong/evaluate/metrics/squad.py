"""F1 of words as SQuAD counts it (Rajpurkar et al., arXiv 1606.05250, section 6.1): the overlap of two bags of words.

Both texts are normalised first: lower case, no punctuation, no articles. What the official script does for two texts
without any word in common is kept, two empty ones included: they score 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str, dropped: re.Pattern[str] = _ARTICLES) -> str:
    """The words of `text` in lower case with single spaces, without punctuation (ASCII) and without `dropped`.

    >>> normalised("The cat's  hat, and an owl.")
    'cats hat and owl'
    """
    return " ".join(dropped.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def overlap(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two lists of words, each word counted as often as both have it.

    >>> overlap(["red", "hat"], ["hat", "hat"])
    0.5
    """
    common = sum((Counter(prediction) & Counter(gold)).values())
    return 2 * common / (len(prediction) + len(gold)) if common else 0.0


def f1(prediction: str, gold: Sequence[str]) -> float:
    """The highest F1 that the prediction has with one of the right answers; 0 without any.

    >>> f1("in the big city", ["Paris", "a city"])
    0.5
    """
    words = normalised(prediction).split()
    return max((overlap(words, normalised(answer).split()) for answer in gold), default=0.0)


def contains(prediction: str, gold: Sequence[str]) -> bool:
    """Whether the words of one of the right answers stand in the prediction, in their order and together.

    >>> contains("It was the Red hat.", ["red hat"]), contains("It was red.", ["red hat"])
    (True, False)
    """
    words = f" {normalised(prediction)} "
    return any(f" {answer} " in words for answer in map(normalised, gold) if answer)
