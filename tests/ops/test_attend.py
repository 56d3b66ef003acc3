"""attend against its naive reference in float64: shapes, tiles, chunkings, soft cap, sink logits, empty rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from everlong.ops import attend as module
from everlong.ops.attend import AttentionPart, attend, attend_naive
from everlong.ops.native import extension
from everlong.ops.spans import KeyIntervals
from everlong.ops.workspace import Workspace

TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 4e-2}


def parts_of(tokens, seen, window, sinks, dtype=torch.float32, rows=2, heads=6, kv_heads=2, dim=8):
    keys = seen + tokens
    q_far, q_near = (torch.randn(rows, heads, tokens, dim, dtype=dtype) for _ in range(2))
    k, v = torch.randn(rows, kv_heads, keys, dim, dtype=dtype), torch.randn(rows, kv_heads, keys, dim + 2, dtype=dtype)
    near = KeyIntervals.affine(tokens, lo=(seen - window + 1, 0, keys), hi=(seen + 1, 0, keys))
    far = KeyIntervals.affine(tokens, lo=(0, 0, 0), hi=(seen - window + 1, 0, sinks))
    return [AttentionPart(q_far, k[:, :, :sinks], v[:, :, :sinks], far), AttentionPart(q_near, k, v, near)]


def exact(parts, *args):
    return attend_naive([AttentionPart(p.q.double(), p.k.double(), p.v.double(), p.span) for p in parts], *args)


SHAPES = [(1, 39, 16, 4), (7, 33, 16, 4), (100, 63, 63, 5), (64, 0, 100, 3), (33, 27, 4, 4), (1, 0, 1, 1)]


@pytest.mark.parametrize("one_shot", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("tokens", "seen", "window", "sinks"), SHAPES)
def test_equals_naive(monkeypatch, tokens, seen, window, sinks, dtype, one_shot):
    monkeypatch.setattr(module, "ONE_SHOT_SCORES", 1 << 30 if one_shot else 0)
    parts = parts_of(tokens, seen, window, sinks, dtype)
    for softcap, s_aux in itertools.product((None, 3.0), (None, torch.randn(6))):
        out = attend(parts, 0.3, softcap, s_aux, tile_queries=16, tile_keys=13)
        assert out.shape == (2, tokens, 6, 10)
        assert out.dtype == dtype
        assert (out.double() - exact(parts, 0.3, softcap, s_aux)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("native", [True, False])
def test_half_products_either_way(monkeypatch, native):
    monkeypatch.setattr(module, "native_half", lambda q: native)
    monkeypatch.setattr(module, "ONE_SHOT_SCORES", 0)
    parts = parts_of(70, 50, 40, 4, torch.bfloat16)
    assert (attend(parts, 0.3).double() - exact(parts, 0.3)).abs().max() < TOLERANCE[torch.bfloat16]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 50),
    st.integers(1, 60),
    st.integers(0, 6),
    st.integers(1, 17),
    st.integers(1, 17),
)
def test_any_tiling(tokens, seen, window, sinks, tile_queries, tile_keys):
    parts = parts_of(tokens, seen, window, sinks, torch.float64)
    before, module.ONE_SHOT_SCORES = module.ONE_SHOT_SCORES, 0
    try:
        out = attend(parts, 0.5, tile_queries=tile_queries, tile_keys=tile_keys)
    finally:
        module.ONE_SHOT_SCORES = before
    torch.testing.assert_close(out, exact(parts, 0.5), atol=1e-12, rtol=0)


@pytest.mark.parametrize("one_shot", [True, False])
def test_rows_with_intervals_of_their_own(monkeypatch, one_shot):
    monkeypatch.setattr(module, "ONE_SHOT_SCORES", 1 << 30 if one_shot else 0)
    (_, near) = parts_of(9, 20, 12, 4, torch.float64)
    lo = np.concatenate([near.span.lo, np.maximum(near.span.lo, 17)])
    near.span = KeyIntervals(lo, np.concatenate([near.span.hi] * 2))
    torch.testing.assert_close(attend([near], 0.5, tile_keys=5), exact([near], 0.5), atol=1e-12, rtol=0)


@pytest.mark.parametrize("one_shot", [True, False])
def test_a_query_that_sees_nothing_gets_zero(monkeypatch, one_shot):
    monkeypatch.setattr(module, "ONE_SHOT_SCORES", 1 << 30 if one_shot else 0)
    part = parts_of(5, 8, 4, 2)[1]
    part.span = KeyIntervals.affine(5, lo=(9, 0, 13), hi=(7, 0, 13))
    assert attend([part, part], 0.3).abs().max() == 0
    part.span = KeyIntervals(np.array([[0, 0, 3, 3, 3]]), np.array([[2, 2, 3, 3, 9]]))
    out = attend([part], 0.3)
    assert out[:, 2:4].abs().max() == 0
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.double(), exact([part], 0.3), atol=1e-6, rtol=0)


def test_hidden_keys_may_hold_anything():
    part = parts_of(3, 9, 4, 2)[1]
    expected = attend([part], 0.3)
    part.k[:, :, :6] = torch.nan
    part.v[:, :, :6] = torch.nan
    assert torch.equal(attend([part], 0.3), expected)


def test_scratch_is_reused():
    scratch, parts = Workspace(), parts_of(100, 63, 63, 5)
    first = attend(parts, 0.3, scratch=scratch).clone()
    held = {k: t.data_ptr() for k, t in scratch._flat.items()}
    assert torch.equal(attend(parts, 0.3, scratch=scratch), first)
    assert held == {k: t.data_ptr() for k, t in scratch._flat.items()}


def test_kv_heads_are_not_copied(monkeypatch):
    parts = parts_of(1, 4000, 4000, 4, heads=8, kv_heads=1)
    sizes = []
    monkeypatch.setattr(
        torch, "bmm", lambda *a, _bmm=torch.bmm, **k: sizes.append(a[1].untyped_storage().nbytes()) or _bmm(*a, **k)
    )
    attend(parts, 0.3)
    assert parts[1].k.untyped_storage().nbytes() in sizes


def test_gradients_flow_through_the_naive_path():
    parts = parts_of(4, 3, 4, 2, torch.float64, rows=1, heads=2, kv_heads=1, dim=4)
    q = parts[1].q.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: attend([parts[0], AttentionPart(x, parts[1].k, parts[1].v, parts[1].span)], 0.5), q
    )


@pytest.mark.parametrize("one_shot", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("tokens", "seen", "window", "sinks"), SHAPES)
def test_mass_is_the_attention_of_each_key(monkeypatch, tokens, seen, window, sinks, dtype, one_shot):
    monkeypatch.setattr(module, "ONE_SHOT_SCORES", 1 << 30 if one_shot else 0)
    parts = parts_of(tokens, seen, window, sinks, dtype)
    for s_aux in (None, torch.randn(6)):
        exact_parts = [AttentionPart(p.q.double(), p.k.double(), p.v.double(), p.span) for p in parts]
        for p, e in zip(parts, exact_parts, strict=True):
            e.mass = torch.zeros(*p.q.shape[:2], p.k.shape[2], dtype=torch.float64)
            p.mass = e.mass.to(torch.promote_types(dtype, torch.float32), copy=True)
        attend(parts, 0.3, None, s_aux, tile_queries=16, tile_keys=13)
        attend_naive(exact_parts, 0.3, None, s_aux)
        for p, e in zip(parts, exact_parts, strict=True):
            assert (p.mass.double() - e.mass).abs().max() < TOLERANCE[dtype] * tokens
        total = sum(p.mass.sum(-1) for p in exact_parts)
        if s_aux is None:
            torch.testing.assert_close(total, torch.full_like(total, tokens), atol=1e-9, rtol=0)


NATIVE = [] if extension() is None else extension().levels()


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 2, 16), (9, 3, 64), (5, 1, 80), (2, 2, 128)])
@pytest.mark.parametrize(("tokens", "seen", "window", "sinks"), [*SHAPES, (37, 600, 270, 4), (2, 260, 256, 0)])
def test_the_extension_equals_naive(level, dtype, shape, tokens, seen, window, sinks):
    heads, kv_heads, dim = shape
    native = extension()
    best = native.level()
    native.set_level(level)
    try:
        keys = seen + tokens
        q_far, q_near = (torch.randn(2, tokens, heads, dim).to(dtype).transpose(1, 2) for _ in range(2))
        k, v = (torch.randn(2, kv_heads, keys + 3, dim).to(dtype) for _ in range(2))
        near = KeyIntervals.affine(tokens, lo=(seen - window + 1, 0, keys), hi=(seen + 1, 0, keys))
        far = KeyIntervals.affine(tokens, lo=(0, 0, 0), hi=(seen - window + 1, 0, sinks))
        parts = [AttentionPart(q_far, k, v, far), AttentionPart(q_near, k, v, near, 3)]
        wide = [AttentionPart(p.q.double(), p.k.double(), p.v.double(), p.span, p.start) for p in parts]
        assert module.reader(parts, None) is not None
        for s_aux in (None, torch.randn(heads)):
            out = attend(parts, dim**-0.5, None, s_aux)
            assert out.dtype == dtype
            assert (out.double() - attend_naive(wide, dim**-0.5, None, s_aux)).abs().max() < TOLERANCE[dtype]
    finally:
        native.set_level(best)


@pytest.mark.skipif(not NATIVE, reason="the C extension was not built")
def test_the_extension_takes_intervals_of_rows_and_queries_that_see_nothing():
    k, v = (torch.randn(2, 2, 40, 16) for _ in range(2))
    q = torch.randn(2, 4, 9, 16)
    lo = np.stack([np.arange(9), np.arange(9) + 20])
    hi = np.stack([np.arange(9), np.arange(9) + 25])
    part = AttentionPart(q, k, v, KeyIntervals(lo, hi))
    out = attend([part], 0.5)
    assert (out[0] == 0).all()
    torch.testing.assert_close(out, attend_naive([part], 0.5), atol=1e-5, rtol=0)


@pytest.mark.skipif(not NATIVE, reason="the C extension was not built")
def test_threads_change_nothing():
    parts = [
        AttentionPart(
            torch.randn(1, 6, 130, 32),
            *torch.randn(2, 1, 3, 300, 32),
            KeyIntervals.affine(130, (0, 0, 0), (171, 0, 300)),
        )
    ]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(attend(parts, 0.2))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], atol=2e-6, rtol=0)
