"""Rows in slabs, against a dictionary: some leave, others move up, forks keep what they had."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from everlong.storage.growable_rows import GrowableRows, allocated_rows


def written(slabs, first, end):
    for n in range(first, end):
        slabs.room(n).fill_(n)


def here(slabs, count):
    found = torch.cat([torch.empty(0, 2), *slabs.rows(count)])[:, 0].tolist()
    assert found == slabs.numbers(count).tolist() == slabs.joined(count)[:, 0].tolist()
    assert [slabs.row(n)[1].item() for n in slabs.numbers(count).tolist()] == found
    return found


@pytest.mark.parametrize("seed", range(6))
def test_rows_leave_and_others_use_their_room(seed):
    draw, slabs, count, gone = random.Random(seed), GrowableRows(2, torch.float32, 2, 8), 0, set()
    forks = []
    for _ in range(12):
        more = draw.randrange(9)
        written(slabs, count, count + more)
        count += more
        live = sorted(set(range(count)) - gone)
        if draw.random() < 0.5:
            forks.append((slabs.fork(), count, live))
        gone |= set(draw.sample(live, draw.randrange(len(live) + 1)) if draw.random() < 0.7 else live[:3])
        slabs.without(np.array(sorted(gone), dtype=np.int64), count)
        assert here(slabs, count) == sorted(set(range(count)) - gone)
        assert len(slabs.joined(count)) <= slabs.nbytes // 8 == allocated_rows(count - len(gone), 2, 8)
        for fork, at, expected in forks:
            assert here(fork, at) == expected
    copy = GrowableRows(2, torch.float32, 2, 8)
    copy.restore(slabs.joined(count), slabs.gone)
    written(copy, count, count + 3)
    assert here(copy, count + 3) == [*here(slabs, count), count, count + 1, count + 2]


def test_what_is_allocated_is_known_before():
    slabs = GrowableRows(2, torch.float32, 2, 8)
    for n in range(40):
        assert slabs.nbytes // 8 == allocated_rows(n, 2, 8)
        written(slabs, n, n + 1)
