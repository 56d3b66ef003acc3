"""Rows from pieces: order, weights of what is written, and which segments may be written more than once."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from everlong.train.data.encoding import EncodedPiece
from everlong.train.data.rows import Filler, repeats, row


def piece(*ids: int, weight: float = 0.5) -> EncodedPiece:
    return EncodedPiece(np.array(ids, np.int64), np.full(len(ids), weight, np.float32))


def test_a_row_by_hand():
    filler = Filler(np.arange(4) + 10, np.array([0, 2, 4]))
    pieces = [piece(1), *filler.around([(2, piece(2)), (0, piece(3)), (2, piece(4))]), piece(5, 6)]
    sample = row(pieces, 3, 1.0, 2.0, random.Random(0), [(1, 2)])
    assert sample.ids.tolist() == [1, 3, 10, 11, 2, 4, 12, 13, 5, 6]
    assert sample.loss_weight.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert sample.write_weight.tolist() == [1.0] * 10
    assert sample.document.tolist() == [0] * 10
    assert sample.answer == (9, 10)


def test_the_nearest_place_that_is_allowed():
    filler = Filler(np.arange(9), np.array([0, 4, 7]))
    assert [filler.near(x) for x in (0, 1.9, 2.1, 5.4, 5.6, 9)] == [0, 0, 4, 4, 7, 7]
    assert filler.near(0, least=1) == 4
    assert filler.near(0, least=8) == 9


@pytest.mark.parametrize("segment", [1, 4, 7, 100])
def test_only_segments_of_filler_alone_are_written_more_than_once(segment):
    lengths = [(5, False), (40, True), (3, False), (60, True), (2, False)]
    dull = np.concatenate([np.full(n, is_filler) for n, is_filler in lengths])
    write = repeats(lengths, segment, 512.0, random.Random(1))
    for start in range(0, len(dull), segment):
        part = write[start : start + segment]
        assert (part == part[0]).all()
        assert (part[0] == 1) == (not dull[start : start + segment].all())
    assert write.max() <= 512
    assert write.dtype == np.float32


def test_repeats_are_log_uniform_by_row():
    """Of log-uniform numbers in 1..W the logarithms have mean ln(W) / 2, the numbers (W - 1) / ln(W)."""
    W, n, rng = 512.0, 4_000, random.Random(2)
    rows = np.array([repeats([(4, True)], 2, W, rng) for _ in range(n)], np.float64)
    assert (rows == rows[:, :1]).all()
    write = rows[:, 0]
    assert write.min() >= 1
    assert write.max() <= W
    assert write.min() < 1.02
    assert write.max() > 0.98 * W
    logs = np.log(write)
    assert abs(logs.mean() - math.log(W) / 2) < 5 * math.log(W) / math.sqrt(12 * n)
    assert abs(write.mean() - (W - 1) / math.log(W)) < 5 * write.std() / math.sqrt(n)
    quarters = np.histogram(logs, bins=4, range=(0, math.log(W)))[0] / n
    assert np.abs(quarters - 0.25).max() < 0.03


def test_a_weight_of_one_changes_nothing():
    assert (repeats([(64, True)], 8, 1.0, random.Random(0)) == 1).all()
