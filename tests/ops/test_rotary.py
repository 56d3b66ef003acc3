"""Turning adds up, keeps lengths, and is computed from float64 angles."""

from __future__ import annotations

import pytest
import torch

from everlong.ops.rotary import Rotation, turn_by, turned

FREQS = 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("start", [0, 4, -8])
def test_turns_add_up(interleaved, start):
    rotation = Rotation(FREQS, start, interleaved)
    q = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    p = torch.arange(5)
    there = turned(q, rotation, turn_by(rotation, p + 3, q))
    again = turned(turned(q, rotation, turn_by(rotation, p, q)), rotation, turn_by(rotation, torch.tensor([3]), q))
    torch.testing.assert_close(there, again, atol=1e-12, rtol=0)
    torch.testing.assert_close(there.norm(dim=-1), q.norm(dim=-1))
    assert not torch.allclose(there, q)


@pytest.mark.parametrize("interleaved", [True, False])
def test_scores_depend_on_distance_only(interleaved):
    rotation = Rotation(FREQS, 0, interleaved)
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def at(x, p):
        return turned(x, rotation, turn_by(rotation, torch.tensor([p]), x))

    torch.testing.assert_close((at(q, 9) * at(k, 2)).sum(), (at(q, 107) * at(k, 100)).sum(), atol=1e-12, rtol=0)


def test_rows_may_turn_differently():
    rotation = Rotation(FREQS, 0, False)
    q = torch.randn(2, 3, 4, 8)
    positions = torch.tensor([[0, 1, 2, 3], [5, 5, 5, 5]])
    out = turned(q, rotation, turn_by(rotation, positions, q))
    assert torch.allclose(out[1:], turned(q[1:], rotation, turn_by(rotation, torch.tensor([5]), q)))
    assert torch.equal(out[0, :, 0], q[0, :, 0])


def test_large_turns_keep_float64_angles():
    rotation = Rotation(torch.ones(1, dtype=torch.float64), 0, False)
    q = torch.tensor([[[[1.0, 0.0]]]])
    at = 50_000_000
    out = turned(q, rotation, turn_by(rotation, torch.tensor([at]), q)).flatten()
    exact = torch.tensor([float(at)], dtype=torch.float64)
    torch.testing.assert_close(out.double(), torch.cat([exact.cos(), exact.sin()]), atol=1e-6, rtol=0)


def test_half_types_are_rounded_once():
    rotation = Rotation(FREQS, 0, False)
    q = torch.randn(1, 1, 6, 8).to(torch.bfloat16)
    out = turned(q, rotation, turn_by(rotation, torch.arange(6), q))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, turned(q.float(), rotation, turn_by(rotation, torch.arange(6), q.float())).bfloat16())
