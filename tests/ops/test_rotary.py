"""Turning adds up, keeps lengths, and is computed from float64 angles."""

from __future__ import annotations

import pytest
import torch

from everlong.ops import rotary
from everlong.ops.native import extension
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


@pytest.mark.skipif(extension() is None, reason="the C extension was not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("start", "pairs"), [(0, 32), (16, 8), (-10, 5), (0, 1)])
def test_the_extension_turns_as_torch_does(monkeypatch, dtype, interleaved, start, pairs):
    rotation = Rotation(torch.rand(pairs, dtype=torch.float64), start, interleaved)
    # As heads lie behind a projection: those of a token side by side.
    q = torch.randn(1, 19, 3, 64).transpose(1, 2).to(dtype)
    turns = [turn_by(rotation, by, q) for by in (torch.arange(19) * 7 - 30, torch.tensor([5]))]
    found = [turned(q, rotation, turn) for turn in turns]
    assert all(x.is_contiguous() for x in found)
    monkeypatch.setattr(rotary, "extension", lambda: None)
    for turn, got in zip(turns, found, strict=True):
        torch.testing.assert_close(
            got, turned(q, rotation, turn), atol=1e-6, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5
        )


def test_the_extension_leaves_alone_what_it_does_not_take():
    rotation = Rotation(torch.rand(4, dtype=torch.float64), 0, False)
    two_rows = torch.randn(2, 3, 5, 8)
    turn = turn_by(rotation, torch.arange(5), two_rows)
    each = [turned(row[None], rotation, turn) for row in two_rows]
    torch.testing.assert_close(turned(two_rows, rotation, turn), torch.cat(each))
    grown = torch.randn(1, 3, 5, 8, requires_grad=True)
    turned(grown, rotation, turn).sum().backward()
    assert grown.grad is not None
    spoilt = torch.full((1, 3, 5, 8), torch.nan, dtype=torch.bfloat16)
    assert turned(spoilt, rotation, turn).isnan().all()
