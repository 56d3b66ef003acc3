"""Bins of a stream: what is summed where, and the piece sizes that the session sees."""

from __future__ import annotations

import math

import pytest
import torch

from everlong.report.stream import Bin, StreamCurve, resident_bytes


def curve_of(*nll_sums: float, bin_tokens: int = 4) -> StreamCurve:
    """Bins with these sums of nats; the first token of the stream is not scored."""
    starts = range(0, bin_tokens * len(nll_sums), bin_tokens)
    bins = [
        Bin(start, start + bin_tokens, nll, bin_tokens - (start == 0), 0.1, 7)
        for start, nll in zip(starts, nll_sums, strict=True)
    ]
    return StreamCurve("sinks", tuple(bins))


def test_perplexity_weighs_tokens_and_leaves_out_the_first():
    curve = curve_of(6.0, 9.0)
    assert curve.perplexity(0, 4) == pytest.approx(math.exp(6 / 3))
    assert curve.perplexity(0, 8) == pytest.approx(math.exp(15 / 7))


def test_perplexity_outside_the_bins_is_nan_and_a_huge_one_is_a_number():
    assert math.isnan(curve_of(6.0).perplexity(4, 8))
    assert math.isfinite(curve_of(1e9).perplexity(0, 4))


def test_figures_are_medians_and_plain_data():
    bins = tuple(Bin(n, n + 1, 0.0, 1, seconds, 7) for n, seconds in enumerate((0.001, 0.5, 0.002)))
    curve = StreamCurve("sinks", bins)
    assert curve.ms_per_token() == 2.0
    assert curve.resident_bytes_after(2) == 7
    assert math.isnan(curve.resident_bytes_after(9))
    assert curve.as_dict()["bins"][0] == [0, 1, 1.0, 1.0, 7]


def test_resident_bytes_grow_with_what_is_held():
    before = resident_bytes()
    held = torch.ones(20_000_000)
    assert 70e6 < resident_bytes() - before < 100e6
    assert held.sum() == 20_000_000
