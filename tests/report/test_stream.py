"""Bins of a stream: what is summed where, and the piece sizes that the session sees."""

from __future__ import annotations

import math

import pytest
import torch

from everlong.report.stream import Bin, StreamCurve, read_stream, resident_bytes


class Recorder:
    """Scores as a session does: token i costs i nats, the first of the stream has no predecessor."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def score(self, ids: list[int]) -> torch.Tensor:
        start = sum(self.lengths)
        self.lengths.append(len(ids))
        logp = -torch.arange(start, start + len(ids), dtype=torch.float32)
        return torch.where(logp == 0, torch.nan, logp)


def curve_of(tokens: int, chunk: int, bin_tokens: int) -> tuple[StreamCurve, Recorder]:
    recorder = Recorder()
    return read_stream(recorder, list(range(tokens)), "x", chunk=chunk, bin_tokens=bin_tokens), recorder


@pytest.mark.parametrize(("tokens", "chunk", "bin_tokens"), [(1, 4, 8), (20, 3, 8), (63, 100, 8), (100, 7, 100)])
def test_every_token_is_read_once_and_no_piece_crosses_an_edge(tokens: int, chunk: int, bin_tokens: int):
    curve, recorder = curve_of(tokens, chunk, bin_tokens)
    assert sum(recorder.lengths) == tokens
    assert max(recorder.lengths) <= min(chunk, bin_tokens)
    assert [b.start for b in curve.bins] == list(range(0, tokens, bin_tokens))
    assert curve.bins[-1].end == tokens
    assert sum(b.scored_tokens for b in curve.bins) == tokens - 1
    assert sum(b.nll_sum for b in curve.bins) == tokens * (tokens - 1) / 2


def test_perplexity_weighs_tokens_and_leaves_out_the_first():
    curve, _ = curve_of(6, 2, 4)
    assert curve.perplexity(0, 4) == pytest.approx(math.exp((1 + 2 + 3) / 3))
    assert curve.perplexity(0, 6) == pytest.approx(math.exp(15 / 5))
    assert math.isnan(curve.perplexity(6, 12))


def test_progress_is_told_after_every_piece():
    told: list[tuple[int, float]] = []
    read_stream(Recorder(), list(range(5)), "x", 2, 4, on_chunk=lambda done, ppl: told.append((done, ppl)))
    assert [done for done, _ in told] == [2, 4, 5]
    assert told[1][1] == pytest.approx(math.exp(2.5))


def test_figures_are_medians_and_plain_data():
    bins = tuple(Bin(n, n + 1, 0.0, 1, seconds, 7) for n, seconds in enumerate((0.001, 0.5, 0.002)))
    curve = StreamCurve("sinks", bins)
    assert curve.ms_per_token() == 2.0
    assert curve.resident_bytes_after(2) == 7
    assert curve.resident_bytes_after(9) is None
    assert curve.as_dict()["bins"][0] == [0, 1, 1.0, 1.0, 7]


def test_resident_bytes_grow_with_what_is_held():
    before = resident_bytes()
    held = torch.ones(20_000_000)
    assert 70e6 < resident_bytes() - before < 100e6
    assert held.sum() == 20_000_000
