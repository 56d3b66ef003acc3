"""Rows of a table from records: means, intervals, counts of what was not judged."""

from __future__ import annotations

import math

import pytest

from everlong.evaluate.summary import interval, summarised


def record(**fields):
    """A record with every field that a summary looks at."""
    plain = {"options": {}, "settings": {}, "model": "", "group": ""}
    plain |= {"task": "t", "version": 1, "method": "m", "length": 8, "depth": 0.5, "prompt_tokens": 8, "scores": {}}
    plain |= {"score": 1.0, "status": "ok", "seconds": 2.0, "model_s": 1.5, "peak_rss_bytes": 100}
    return plain | fields


def test_one_row_for_each_place_and_method():
    rows = summarised([record(), record(depth=0.9), record(method="n"), record(score=0.0, seconds=3.0)])
    assert [(r["method"], r["depth"], r["n"], r["score"]) for r in rows] == [
        ("m", 0.5, 2, 0.5), ("m", 0.9, 1, 1.0), ("n", 0.5, 1, 1.0)
    ]  # fmt: skip
    assert (rows[0]["seconds"], rows[0]["model_s"]) == (5.0, 3.0)


def test_what_was_not_judged_is_counted_and_has_no_score():
    early = [record(score=None, status="too long", peak_rss_bytes=None), record(score=None, status="cannot")]
    (row,) = summarised(early)
    assert (row["n"], row["score"], row["low"], row["too_long"], row["cannot"]) == (0, None, None, 1, 1)
    (row,) = summarised([*early, record(peak_rss_bytes=300)])
    assert (row["n"], row["score"], row["peak_rss_bytes"]) == (1, 1.0, 300)


def test_further_metrics_are_averaged_over_the_records_that_have_them():
    (row,) = summarised([record(scores={"a": 0.5}), record(scores={"a": 1.0, "b": 0.25}), record()])
    assert row["scores"] == {"a": 0.75, "b": 0.25}


def test_the_interval_of_right_and_wrong_is_wilsons():
    """8 of 10: z = 1.96, centre (0.8 + z^2/20) / (1 + z^2/10) = 0.7168, half 0.2264 (by hand)."""
    low, high = interval([1.0] * 8 + [0.0] * 2)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=2e-4)
    assert interval([1.0])[1] == 1.0
    assert interval([0.0, 0.0])[0] == pytest.approx(0.0, abs=1e-12)


def test_the_interval_of_other_scores_is_near_the_normal_one():
    scores = [math.sin(n) ** 2 for n in range(400)]
    mean = sum(scores) / 400
    half = 1.96 * math.sqrt(sum((s - mean) ** 2 for s in scores) / 399 / 400)
    assert interval(scores) == pytest.approx((mean - half, mean + half), abs=0.004)
    assert interval([]) == (None, None)
    assert interval([0.3, 0.3]) == pytest.approx((0.3, 0.3))
