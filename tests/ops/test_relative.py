"""Relative attention against its naive reference in float64 and against the one in transformers (XLNet's)."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import XLNetConfig
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

from everlong.errors import ConfigError
from everlong.ops.relative import first_seen, relative_attention, relative_attention_naive, relative_shift, sinusoids

TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 6e-2}
SCALE = 0.4


def arguments(tokens, memory, heads=4, kv_heads=2, r_heads=4, rows=2, dim=5, dtype=torch.float64):
    """q, k, v, r, u, w with values one wider than keys."""
    columns = memory + tokens
    shapes = [
        (rows, heads, tokens, dim),
        (rows, kv_heads, columns, dim),
        (rows, kv_heads, columns, dim + 1),
        (columns, r_heads, dim),
        (heads, dim),
        (heads, dim),
    ]
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def exact(given, first, present=None):
    return relative_attention_naive(*(x.double() for x in given), first, SCALE, present)


SHAPES = [(1, 0), (1, 9), (7, 0), (7, 3), (3, 7), (5, 5), (9, 1)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "kv_heads", "r_heads"), [(4, 2, 4), (4, 2, 2), (3, 3, 3), (6, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize(("tokens", "memory"), SHAPES)
def test_equals_naive(tokens, memory, heads, kv_heads, r_heads, dtype):
    given = arguments(tokens, memory, heads, kv_heads, r_heads, dtype=dtype)
    for keys in (None, 3):
        first = first_seen(tokens, memory, keys)
        out = relative_attention(*given, first, SCALE)
        assert out.shape == (2, heads, tokens, 6)
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), exact(given, first), atol=TOLERANCE[dtype], rtol=0)


def test_longer_than_a_loop_would_like():
    """63 tokens after 100: the reference scores every pair at its own distance, without a shift."""
    q, k, v, r, u, w = arguments(63, 100, heads=2, kv_heads=1, r_heads=2, rows=1)
    distance = 100 + torch.arange(63)[:, None] - torch.arange(163)
    content = torch.einsum("bhtd,bsd->bhts", q + u[:, None], k[:, 0])
    position = torch.einsum("bhtd,tshd->bhts", q + w[:, None], r[distance.clamp_min(0)])
    scores = ((content + position) * SCALE).masked_fill((distance < 0) | (distance >= 70), -torch.inf)
    expected = torch.einsum("bhts,bse->bhte", scores.softmax(-1), v[:, 0])
    out = relative_attention(q, k, v, r, u, w, first_seen(63, 100, keys=70), SCALE)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("memory", [0, 6])
def test_equals_transformers(memory):
    """XLNet took this attention over; its r runs from far to near and on into the future, which stays hidden."""
    tokens, heads, dim, columns = 5, 3, 4, memory + 5
    theirs = XLNetRelativeAttention(XLNetConfig(d_model=heads * dim, n_head=heads, dropout=0.0)).double()
    q, k, v, r, u, w = arguments(tokens, memory, heads, heads, heads, dim=dim)
    v = v[..., :dim]
    theirs.r_w_bias.data, theirs.r_r_bias.data = u, w
    beyond = torch.randn(columns + tokens, heads, dim, dtype=torch.float64)
    beyond[1 : columns + 1] = r.flip(0)
    hidden = (torch.arange(columns) > memory + torch.arange(tokens)[:, None]).double()
    q_, k_, v_ = (x.permute(2, 0, 1, 3) for x in (q, k, v))
    r_, hidden_ = beyond[:, None].expand(-1, 2, -1, -1), hidden[..., None, None].expand(-1, -1, 2, heads)
    with torch.no_grad():
        expected = theirs.rel_attn_core(q_, k_, v_, r_, attn_mask=hidden_).permute(1, 2, 0, 3)
    out = relative_attention(q, k, v, r, u, w, first_seen(tokens, memory), 1 / math.sqrt(dim))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)


def test_chunks_equal_the_whole():
    """A segment read in two, the first part as the memory of the second, reads what it read at once."""
    q, k, v, r, u, w = arguments(9, 4)
    whole = relative_attention(q, k, v, r, u, w, first_seen(9, 4, keys=6), SCALE)
    early = relative_attention(q[:, :, :3], k[:, :, :7], v[:, :, :7], r[:7], u, w, first_seen(3, 4, keys=6), SCALE)
    late = relative_attention(q[:, :, 3:], k, v, r, u, w, first_seen(6, 7, keys=6), SCALE)
    torch.testing.assert_close(torch.cat([early, late], 2), whole, atol=1e-12, rtol=0)


def test_first_seen():
    assert first_seen(3, 4).tolist() == [[0, 0, 0]]
    assert first_seen(3, 4, keys=4).tolist() == [[1, 2, 3]]
    assert first_seen(4, 1, keys=3).tolist() == [[0, 0, 1, 2]]
    assert first_seen(2, 5, keys=1).tolist() == [[5, 6]]
    with pytest.raises(ConfigError, match="keys=0: must be at least 1"):
        first_seen(2, 5, keys=0)


def test_same_length_counts_the_query_itself():
    """With equal scores the output is the mean of the last `keys` values, as in the authors' mask."""
    q, k, v, r, u, w = arguments(6, 4)
    out = relative_attention(0 * q, k, v, r, 0 * u, 0 * w, first_seen(6, 4, keys=4), SCALE)
    means = torch.stack([v[:, :, i + 1 : i + 5].mean(2) for i in range(6)], 2).repeat_interleave(2, 1)
    torch.testing.assert_close(out, means, atol=1e-12, rtol=0)


def absent(columns, *counts):
    """[B, S]: row b lacks its first counts[b] columns."""
    return torch.arange(columns) >= torch.tensor(counts)[:, None]


@pytest.mark.parametrize("counts", [(0, 4), (2, 0), (4, 3), (6, 1), (9, 0)])
def test_absent_columns(counts):
    given, present = arguments(5, 4), absent(9, *counts)
    for first in (first_seen(5, 4), first_seen(5, 4, keys=3), torch.tensor([[0, 1, 2, 2, 4], [3, 3, 3, 6, 8]])):
        out = relative_attention(*given, first, SCALE, present)
        torch.testing.assert_close(out, exact(given, first, present), atol=1e-12, rtol=0)


def test_absent_columns_need_not_come_first():
    given, present = arguments(5, 4), torch.rand(2, 9) < 0.5
    out = relative_attention(*given, first_seen(5, 4), SCALE, present)
    torch.testing.assert_close(out, exact(given, first_seen(5, 4), present), atol=1e-12, rtol=0)


def test_absent_memory_is_no_memory():
    q, k, v, r, u, w = arguments(5, 4)
    alone = relative_attention(q, k[:, :, 4:], v[:, :, 4:], r[:5], u, w, first_seen(5, 0), SCALE)
    out = relative_attention(q, 1e4 * k, v, r, u, w, first_seen(5, 4), SCALE, absent(9, 4, 4))
    near = relative_attention(q, 1e4 * k, v, r, u, w, first_seen(5, 4), SCALE)
    k = torch.cat([1e4 * k[:, :, :4], k[:, :, 4:]], 2)
    torch.testing.assert_close(
        relative_attention(q, k, v, r, u, w, first_seen(5, 4), SCALE, absent(9, 4, 4)), alone, atol=1e-12, rtol=0
    )
    assert not torch.allclose(out, near)


def test_who_sees_nothing_reads_nothing():
    given = [x.requires_grad_() for x in arguments(3, 2)]
    first = torch.tensor([[0, 9, 0], [0, 0, 0]])
    out = relative_attention(*given, first, SCALE, absent(5, 0, 5))
    assert not out[0, :, 1].any()
    assert not out[1].any()
    assert out[0, :, 0].all()
    out.square().sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in given)
    assert not given[0].grad[1].any()
    assert not given[1].grad[1].any()
    assert not given[2].grad[1].any()


@pytest.mark.parametrize(("tokens", "memory", "r_heads"), [(3, 2, 2), (2, 0, 1), (1, 0, 2)])
def test_gradients(tokens, memory, r_heads):
    given = [x.requires_grad_() for x in arguments(tokens, memory, 2, 1, r_heads, rows=2, dim=2)]
    present = absent(memory + tokens, 0, memory)

    def run(*given):
        return relative_attention(*given, first_seen(tokens, memory, keys=4), SCALE, present)

    assert torch.autograd.gradcheck(run, given)


def test_gradients_equal_those_of_naive():
    given = [x.requires_grad_() for x in arguments(4, 3)]
    first, present, weight = first_seen(4, 3, keys=4), absent(7, 1, 0), torch.randn(2, 4, 4, 6, dtype=torch.float64)
    fast, slow = (
        torch.autograd.grad((f(*given, first, SCALE, present) * weight).sum(), given)
        for f in (relative_attention, relative_attention_naive)
    )
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_shift_puts_each_distance_under_its_column():
    distances = torch.arange(7, -1, -1).expand(3, -1)
    columns = relative_shift(distances[None].double())[0]
    assert columns.tolist() == [[4, 3, 2, 1, 0, 7, 6], [5, 4, 3, 2, 1, 0, 7], [6, 5, 4, 3, 2, 1, 0]]
    assert columns._base is not None


def test_any_strides():
    """Keys shared by rows or heads without a copy (stride 0), and queries as a projection leaves them."""
    q, k, v, r, u, w = arguments(3, 2)
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    k, v, r = k[:1].expand(2, -1, -1, -1), v[:1].expand(2, -1, -1, -1), r[:, :1].expand(-1, 4, -1)
    out = relative_attention(q, k, v, r, u, w, first_seen(3, 2), SCALE)
    torch.testing.assert_close(out, exact([q, k, v, r, u, w], first_seen(3, 2)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_sinusoids(width):
    out = sinusoids(torch.tensor([[0, 1], [5, 700]], dtype=torch.float64), width)
    frequencies = [10000.0 ** (-2 * i / width) for i in range(math.ceil(width / 2))]
    for place, row in zip((0, 1, 5, 700), out.reshape(4, width), strict=True):
        waves = [math.sin(place * f) for f in frequencies] + [math.cos(place * f) for f in frequencies]
        torch.testing.assert_close(row, torch.tensor(waves[:width], dtype=torch.float64), atol=1e-12, rtol=0)


def test_sinusoids_far_away_keep_float64_angles():
    far = 40_000_001
    out = sinusoids(torch.tensor([far]), 2)
    assert out.dtype == torch.float32
    assert out[0].tolist() == pytest.approx([math.sin(far), math.cos(far)], abs=1e-6)
    assert sinusoids(torch.tensor([3.0]).bfloat16(), 2).dtype == torch.float32


def test_clamped_distances():
    out = sinusoids(torch.arange(9), 6, clamp=4)
    assert torch.equal(out[:5], sinusoids(torch.arange(5), 6))
    assert torch.equal(out[5:], out[4:5].expand(4, -1))
