"""Two methods on the same questions: the mean difference with its 95 % interval, and the sign test.

Questions about one text are not independent of each other: the bootstrap draws whole texts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Paired:
    """Scores of one method less those of another on the same questions."""

    n: int
    mean: float
    low: float
    high: float
    better: int
    worse: int
    p: float
    """That of the sign test, two-sided."""


def paired(ours: Sequence[float], theirs: Sequence[float], texts: Sequence[Hashable] | None = None) -> Paired:
    """How `ours` differ from `theirs`, value by value; `texts` says which belong together (None: each by itself).

    The interval is that of the percentiles of 10,000 bootstrap means (seed 0), and one text gives none: NaN.

    >>> paired([1.0, 1.0, 0.0], [0.0, 0.0, 0.0]).better
    2
    """
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if not len(difference):
        return Paired(0, math.nan, math.nan, math.nan, 0, 0, 1.0)
    better = int((difference > 0).sum())
    worse = int((difference < 0).sum())
    low, high = _interval(difference, list(range(len(difference))) if texts is None else list(texts))
    return Paired(len(difference), float(difference.mean()), low, high, better, worse, sign_test(better, worse))


def sign_test(better: int, worse: int) -> float:
    """The probability of so uneven a split, or a more uneven one, of fair coins; 1 without any.

    >>> sign_test(5, 0)
    0.0625
    """
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _interval(difference: np.ndarray, texts: list[Hashable]) -> tuple[float, float]:
    """The 95 % interval of the mean, by drawing texts."""
    groups = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    if len(groups) == 1:
        return math.nan, math.nan
    belongs = np.array([groups[text] for text in texts])
    sums = np.bincount(belongs, weights=difference)
    counts = np.bincount(belongs)
    draws = np.random.default_rng(0).integers(0, len(groups), (_RESAMPLES, len(groups)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
