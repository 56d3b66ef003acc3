"""Attention of one token over ranges of keys: against one softmax over all of them, by masks."""

from __future__ import annotations

import pytest
import torch

from everlong.ops import attend_token as module
from everlong.ops.attend import AttentionPart, attend_naive
from everlong.ops.attend_token import AttendedKeys, attend_token, takes
from everlong.ops.native import extension
from everlong.ops.spans import KeyIntervals

TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 4e-2}


def ranges_of(dtype, heads=6, kv_heads=2, dim=8, sizes=((24, 4), (3, 1), (41, 1))):
    """Ranges of one tensor of keys, each with a query of its own, and the same as parts with masks."""
    k, v = (torch.randn(1, kv_heads, 100, dim).to(dtype) for _ in range(2))
    ranges, parts, at = [], [], 5
    for n, runs in sizes:
        q = torch.randn(1, heads, 1, dim).to(dtype)
        ranges.append(AttendedKeys(q, k, v, at, n, runs))
        span = KeyIntervals.affine(1, (0, 0, 0), (n, 0, n))
        mass = torch.zeros(1, heads, 100, dtype=torch.float64)
        parts.append(AttentionPart(q.double(), k.double(), v.double(), span, at, mass))
        at += n
    return ranges, parts


LEVELS = ["torch", *([] if extension() is None else extension().levels())]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """By torch alone, or by the extension with each set of instructions that this processor has."""
    native = extension()
    if request.param == "torch":
        monkeypatch.setattr(module, "extension", lambda: None)
        yield
    else:
        best = native.level()
        native.set_level(request.param)
        yield
        native.set_level(best)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("shape", [(6, 2, 16), (9, 3, 64), (5, 1, 80), (4, 4, 112), (6, 2, 8)])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("sizes", [((24, 4), (3, 1), (41, 1)), ((7, 1),), ((30, 5),), ((1, 1), (64, 64))])
def test_equals_one_softmax_over_all_ranges(dtype, aux, sizes, shape):
    ranges, parts = ranges_of(dtype, *shape, sizes=sizes)
    s_aux = torch.randn(shape[0]) if aux else None
    out, shares = attend_token(ranges, 0.4, s_aux, shares=True)
    assert out.dtype == dtype
    assert (out.double() - attend_naive(parts, 0.4, None, s_aux)).abs().max() < TOLERANCE[dtype]
    wanted = [
        part.mass[0, :, part.start : part.start + n].unflatten(1, (runs, -1)).sum(2)
        for part, (n, runs) in zip(parts, sizes, strict=True)
    ]
    assert (shares.flatten(1).double().T - torch.cat(wanted, 1)).abs().max() < TOLERANCE[dtype]


def test_what_it_takes():
    q, k = torch.ones(1, 4, 1, 8), torch.ones(1, 2, 5, 8)
    assert takes(q, k, k, None)
    assert not takes(q, k, k, 30.0)
    assert not takes(q.expand(2, -1, -1, -1), k, k, None)
    assert not takes(q, k, torch.ones(1, 2, 5, 6), None)
    assert not takes(q.to("meta"), k, k, None)
