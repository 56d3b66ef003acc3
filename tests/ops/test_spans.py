"""Intervals of visible keys."""

from __future__ import annotations

import numpy as np
import torch

from everlong.ops.spans import KeyIntervals


def test_affine_clips():
    span = KeyIntervals.affine(4, lo=(-2, 0, 9), hi=(1, 0, 3))
    assert span.lo.tolist() == [[0, 0, 0, 1]]
    assert span.hi.tolist() == [[1, 2, 3, 3]]


def test_limits():
    span = KeyIntervals(np.array([[0, 1, 2], [1, 1, 4]]), np.array([[3, 4, 5], [2, 4, 9]]))
    assert span.limits(0, 3) == (0, 4, 2, 9)
    assert span.limits(1, 2) == (1, 1, 4, 4)


def test_mask_hides_what_is_outside_and_is_kept():
    span = KeyIntervals.affine(3, lo=(0, 0, 9), hi=(1, 0, 9))
    like = torch.zeros(1)
    mask = span.mask((1, 3), (0, 4), like)
    assert mask.shape == (1, 1, 1, 2, 4)
    assert (mask[0, 0, 0] == 0).tolist() == [[False, True, False, False], [False, False, True, False]]
    assert span.mask((1, 3), (0, 4), like) is mask
