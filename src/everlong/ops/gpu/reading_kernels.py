"""Attention of many new tokens over one part of a context, in Triton: a step of one softmax over several parts.

FlashAttention (arXiv 2205.14135, algorithm 1) with an interval of visible keys for each query (ops/spans.py), whose
running maximum, sum and unscaled output are taken up from the part before and handed on to the next one.

Letters: B batch, H query heads, G kv heads, T new tokens, D head dim of keys, E of values; *_PAD the next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_part(
    q, q_batch, q_head, q_token, k, k_batch, k_head, k_token, v, v_batch, v_head, v_token,
    bounds, bounds_batch, tokens, state_max, state_sum, state_out, aux, out, scale, softcap,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, CAPPED: tl.constexpr, HAS_AUX: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(T / QUERIES), B * H). `bounds` [B or 1, 2, T] int32: first key seen, and the one after the last.

    State [B, H, T] and [B, H, T, E] in float32; `out` [B, T, H, E] is written by the LAST part, a query that has seen
    nothing gets 0. `aux` [H]: a logit that takes weight and gives no value, taken in by the FIRST part.
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    b = (head // H).to(tl.int64)
    h = head % H
    g = h // (H // G)
    i = tile * QUERIES + tl.arange(0, QUERIES)
    real = i < tokens
    d = tl.arange(0, D_PAD)
    e = tl.arange(0, E_PAD)
    lo = tl.load(bounds + b * bounds_batch + i, mask=real, other=2147483647)
    hi = tl.load(bounds + b * bounds_batch + tokens + i, mask=real, other=0)
    first = tl.min(lo, 0)
    end = tl.max(hi, 0)
    at = (b * H + h) * tokens + i
    if FIRST:
        if HAS_AUX:
            top = tl.zeros([QUERIES], dtype=tl.float32) + tl.load(aux + h)
            total = tl.full([QUERIES], 1.0, dtype=tl.float32)
        else:
            top = tl.full([QUERIES], -1e30, dtype=tl.float32)
            total = tl.zeros([QUERIES], dtype=tl.float32)
        mixed = tl.zeros([QUERIES, E_PAD], dtype=tl.float32)
    else:
        top = tl.load(state_max + at, mask=real, other=-1e30)
        total = tl.load(state_sum + at, mask=real, other=0.0)
        mixed = tl.load(state_out + at[:, None] * E + e[None, :], mask=real[:, None] & (e[None, :] < E), other=0.0)
    own = q + b * q_batch + h * q_head + i[:, None] * q_token + d[None, :]
    query = tl.load(own, mask=real[:, None] & (d[None, :] < D), other=0.0)
    keys = k + b * k_batch + g * k_head
    values = v + b * v_batch + g * v_head
    for j in range(first, end, KEYS):
        n = j + tl.arange(0, KEYS)
        there = n < end
        key = tl.load(
            keys + n[None, :].to(tl.int64) * k_token + d[:, None], mask=there[None, :] & (d[:, None] < D), other=0.0
        )
        s = tl.dot(query, key, input_precision="ieee") * scale
        if CAPPED:
            s = softcap * (2 * tl.sigmoid(2 * s / softcap) - 1)
        seen = (n[None, :] >= lo[:, None]) & (n[None, :] < hi[:, None])
        s = tl.where(seen, s, -1e30)
        higher = tl.maximum(top, tl.max(s, 1))
        shrink = tl.exp(top - higher)
        p = tl.where(seen, tl.exp(s - higher[:, None]), 0.0)
        value = tl.load(
            values + n[:, None].to(tl.int64) * v_token + e[None, :], mask=there[:, None] & (e[None, :] < E), other=0.0
        )
        mixed = mixed * shrink[:, None] + tl.dot(p.to(TYPE), value, input_precision="ieee")
        total = total * shrink + tl.sum(p, 1)
        top = higher
    shown = real[:, None] & (e[None, :] < E)
    if LAST:
        given = (mixed / tl.maximum(total, 1e-30)[:, None]).to(TYPE)
        to = ((b * tokens + i) * H + h)[:, None] * E + e[None, :]
        tl.store(out + to, given, mask=shown)
    else:
        tl.store(state_max + at, top, mask=real)
        tl.store(state_sum + at, total, mask=real)
        tl.store(state_out + at[:, None] * E + e[None, :], mixed, mask=shown)
