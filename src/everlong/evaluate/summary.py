"""Rows of a table from records: mean score with its 95 % interval by task, method, length and depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

GROUPED = ("task", "version", "options", "method", "settings", "model", "group", "length", "depth")
_RESAMPLES = 2000
_Z = 1.959964


def summarised(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each combination of GROUPED: n judged, mean score, interval, seconds, the highest peak of memory.

    `too_long` and `cannot` count the samples that were not judged, and why.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(repr([record[name] for name in GROUPED]), []).append(record)
    return [_row(group) for group in groups.values()]


def _row(group: list[dict[str, Any]]) -> dict[str, Any]:
    judged = [record["score"] for record in group if record["score"] is not None]
    low, high = interval(judged)
    peaks = [record["peak_rss_bytes"] for record in group if record["peak_rss_bytes"] is not None]
    names = sorted({name for record in group for name in record["scores"]})
    return {name: group[0][name] for name in GROUPED} | {
        "n": len(judged),
        "score": sum(judged) / len(judged) if judged else None,
        "low": low,
        "high": high,
        "scores": {name: _mean([r["scores"][name] for r in group if name in r["scores"]]) for name in names},
        "too_long": sum(record["status"] == "too long" for record in group),
        "cannot": sum(record["status"] == "cannot" for record in group),
        "prompt_tokens": _mean([record["prompt_tokens"] for record in group]),
        "seconds": sum(record["seconds"] for record in group),
        "model_s": sum(record["model_s"] for record in group),
        "peak_rss_bytes": max(peaks) if peaks else None,
    }


def interval(scores: Sequence[float | int]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean: Wilson's where all scores are 0 or 1, else by resampling; None without scores.

    Wilson, J. Am. Stat. Assoc. 22 (1927) 209; percentiles of 2,000 bootstrap means (seed 0).
    """
    n = len(scores)
    if not n:
        return None, None
    if all(score in (0, 1) for score in scores):
        mean = sum(scores) / n
        z2 = _Z * _Z
        centre = mean + z2 / (2 * n)
        half = _Z * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))
        return max(0.0, (centre - half) / (1 + z2 / n)), min(1.0, (centre + half) / (1 + z2 / n))
    draws = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
    low, high = np.percentile(np.asarray(scores, dtype=float)[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def _mean(values: Sequence[float | int]) -> float:
    return sum(values) / len(values)
