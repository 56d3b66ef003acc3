"""Paired comparison: by hand, and against closed forms."""

from __future__ import annotations

import math
import random

import pytest

from everlong.evaluate.metrics.paired import paired, sign_test


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (3, 3, 1.0), (5, 0, 2 / 32), (1, 7, 2 * (1 + 8) / 256), (7, 1, 2 * (1 + 8) / 256)],
)
def test_the_sign_test_is_the_exact_binomial(better, worse, p):
    assert sign_test(better, worse) == pytest.approx(p)


def test_means_counts_and_an_interval():
    found = paired([1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 2.0])
    assert (found.n, found.better, found.worse, found.p) == (4, 1, 1, 1.0)
    assert found.mean == 0
    assert found.low < 0 < found.high
    same = paired([0.5, 0.7], [0.2, 0.4])
    assert (same.low, same.high) == (pytest.approx(0.3), pytest.approx(0.3))


def test_nothing_and_one_text_have_no_interval():
    nothing = paired([], [])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    one = paired([1.0, 2.0], [0.0, 0.0], ["a", "a"])
    assert one.mean == 1.5
    assert math.isnan(one.low)


def test_texts_are_drawn_whole():
    draw = random.Random(0)
    shifts = [draw.gauss(0, 1) for _ in range(20)]
    ours = [shift + draw.gauss(0, 0.1) for shift in shifts for _ in range(8)]
    texts = [n for n in range(20) for _ in range(8)]
    theirs = [0.0] * len(ours)
    alone, whole = paired(ours, theirs), paired(ours, theirs, texts)
    assert alone.mean == whole.mean
    # Eight nearly equal values of a text tell no more than one: the interval is about sqrt(8) times as wide.
    assert 2.2 < (whole.high - whole.low) / (alone.high - alone.low) < 3.3
    means = [sum(ours[8 * n : 8 * n + 8]) / 8 for n in range(20)]
    spread = (sum((m - alone.mean) ** 2 for m in means) / 19 / 20) ** 0.5
    assert whole.high - whole.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
