"""The attention of one new token by `TokenTables`, in Triton: what native/token.c does on a CPU.

Three kernels for a layer. `prepare` puts the new key and value into their columns and turns the query for each range.
`attend` makes a softmax over each piece of a range. `merge` joins the pieces by their maxima and sums (FlashAttention,
arXiv 2205.14135, section 3.1), writes what each run got, and moves what the tables say.

A record holds the words of one layer's call, ranges and moves (ops/token_tables.py). Letters: H query heads, G kv
heads, F = H / G, D head dim, R ranges, M moves, T pieces; *_PAD is the next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

CALL = tl.constexpr(6)
RANGE = tl.constexpr(7)
MOVE = tl.constexpr(6)
ROWS = tl.constexpr(16)
"""Rows of a turn that are multiplied at once."""


@triton.jit
def _turned(source, turn, D: tl.constexpr, D_PAD: tl.constexpr):
    """The D numbers at `source` in float32, times the matrix [D, D] at the address `turn`, if it is not 0."""
    d = tl.arange(0, D_PAD)
    out = tl.load(source + d, mask=d < D, other=0.0).to(tl.float32)
    if turn != 0:
        matrix = turn.to(tl.pointer_type(tl.float32))
        out = tl.zeros([D_PAD], dtype=tl.float32)
        for first in range(0, D, ROWS):
            i = first + tl.arange(0, ROWS)
            x = tl.load(source + i, mask=i < D, other=0.0).to(tl.float32)
            rows = tl.load(matrix + i[:, None] * D + d[None, :], mask=(i[:, None] < D) & (d[None, :] < D), other=0.0)
            out += tl.sum(x[:, None] * rows, 0)
    return out


@triton.jit
def prepare(
    records, record, q, q_row, q_head, k, k_row, k_head, v, v_row, v_head, queries,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, R: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Grid (H, R + 1, rows): `queries` [rows, R, H, D]; the last of R + 1 writes the new key and value."""
    h = tl.program_id(0)
    r = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    base = records + row * record
    d = tl.arange(0, D_PAD)
    if r < R:
        at = base + CALL + r * RANGE
        if tl.load(at + 3) > 0:
            x = _turned(q + row * q_row + h * q_head, tl.load(at), D, D_PAD)
            tl.store(queries + ((row * R + r) * H + h) * D + d, x.to(TYPE), mask=d < D)
    elif h < G:
        to_k = tl.load(base + 1).to(tl.pointer_type(TYPE)) + h * tl.load(base + 3)
        to_v = tl.load(base + 2).to(tl.pointer_type(TYPE)) + h * tl.load(base + 4)
        tl.store(to_k + d, tl.load(k + row * k_row + h * k_head + d, mask=d < D), mask=d < D)
        tl.store(to_v + d, tl.load(v + row * v_row + h * v_head + d, mask=d < D), mask=d < D)


@triton.jit
def _find(base, piece, t, R: tl.constexpr):
    """Piece number t: (its range or -1, run within it, first column, columns, runs of the ranges before, pieces)."""
    found = -1
    run = 0
    first = 0
    count = 0
    runs_before = 0
    pieces = 0
    total_runs = 0
    for r in range(R):
        n = tl.load(base + CALL + r * RANGE + 3).to(tl.int32)
        runs = tl.load(base + CALL + r * RANGE + 4).to(tl.int32)
        runs = tl.where(n > 0, tl.maximum(runs, 1), 0)
        each = n // tl.maximum(runs, 1)
        per = (each + piece - 1) // piece
        mine = t - pieces
        inside = (mine >= 0) & (mine < per * runs)
        within = mine // tl.maximum(per, 1)
        offset = (mine - within * per) * piece
        found = tl.where(inside, r, found)
        run = tl.where(inside, within, run)
        first = tl.where(inside, within * each + offset, first)
        count = tl.where(inside, tl.minimum(piece, each - offset), count)
        runs_before = tl.where(inside, total_runs, runs_before)
        pieces += per * runs
        total_runs += runs
    return found, run, first, count, runs_before, pieces


@triton.jit
def attend(
    records, record, header, queries, maxima, sums, outs, scale, softcap,
    H: tl.constexpr, G: tl.constexpr, F: tl.constexpr, F_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr,
    R: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr, CAPPED: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Grid (T, G, rows): of each piece the maxima and sums [rows, T, H] and the unscaled outputs [rows, T, H, D]."""
    t = tl.program_id(0)
    g = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    base = records + row * record
    piece = tl.load(header).to(tl.int32)
    found, _, first, count, _, _ = _find(base, piece, t, R)
    if found >= 0:
        at = base + CALL + found * RANGE
        keys = tl.load(at + 1).to(tl.pointer_type(TYPE)) + g * tl.load(at + 5)
        values = tl.load(at + 2).to(tl.pointer_type(TYPE)) + g * tl.load(at + 6)
        f = tl.arange(0, F_PAD)
        d = tl.arange(0, D_PAD)
        shown = (f[:, None] < F) & (d[None, :] < D)
        q = tl.load(queries + ((row * R + found) * H + g * F + f[:, None]) * D + d[None, :], mask=shown, other=0.0)
        top = tl.full([F_PAD], -1e30, dtype=tl.float32)
        total = tl.zeros([F_PAD], dtype=tl.float32)
        out = tl.zeros([F_PAD, D_PAD], dtype=tl.float32)
        for j in range(0, count, BLOCK):
            n = j + tl.arange(0, BLOCK)
            near = (n[:, None] < count) & (d[None, :] < D)
            where = (first + n[:, None]).to(tl.int64) * D + d[None, :]
            k = tl.load(keys + where, mask=near, other=0.0)
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            if CAPPED:
                s = softcap * (2 * tl.sigmoid(2 * s / softcap) - 1)
            s = tl.where(n[None, :] < count, s, -1e30)
            higher = tl.maximum(top, tl.max(s, 1))
            shrink = tl.exp(top - higher)
            p = tl.where(n[None, :] < count, tl.exp(s - higher[:, None]), 0.0)
            v = tl.load(values + where, mask=near, other=0.0)
            out = out * shrink[:, None] + tl.dot(p.to(TYPE), v, input_precision="ieee")
            total = total * shrink + tl.sum(p, 1)
            top = higher
        to = (row * T + t) * H + g * F + f
        tl.store(maxima + to, top, mask=f < F)
        tl.store(sums + to, total, mask=f < F)
        tl.store(outs + to[:, None] * D + d[None, :], out, mask=shown)


@triton.jit
def merge(
    records, record, header, q, q_row, q_head, maxima, sums, outs, aux, out,
    H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, R: tl.constexpr, M: tl.constexpr,
    T: tl.constexpr, HAS_AUX: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Grid (H, 1 + M, rows): `out` [rows, H, D]; then the moves, a head each."""
    h = tl.program_id(0)
    m = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    base = records + row * record
    d = tl.arange(0, D_PAD)
    if m == 0:
        piece = tl.load(header).to(tl.int32)
        _, _, _, _, _, pieces = _find(base, piece, -1, R)
        t = tl.arange(0, T)
        at = (row * T + t) * H + h
        tops = tl.load(maxima + at, mask=t < pieces, other=-1e30)
        top = tl.max(tops, 0)
        if HAS_AUX:
            top = tl.maximum(top, tl.load(aux + h))
        weights = tl.where(t < pieces, tl.exp(tops - top), 0.0)
        total = tl.sum(weights * tl.load(sums + at, mask=t < pieces, other=0.0), 0)
        if HAS_AUX:
            total += tl.exp(tl.load(aux + h) - top)
        shares = tl.load(base + 5)
        mixed = tl.zeros([D_PAD], dtype=tl.float32)
        for n in range(pieces):
            one = (row * T + n) * H + h
            weight = tl.exp(tl.load(maxima + one) - top)
            mixed += weight * tl.load(outs + one * D + d, mask=d < D, other=0.0)
            if shares != 0:
                _, run, _, _, before, _ = _find(base, piece, n, R)
                share = shares.to(tl.pointer_type(tl.float32)) + (before + run) * H + h
                tl.atomic_add(share, weight * tl.load(sums + one) / total)
        tl.store(out + (row * H + h) * D + d, (mixed / total).to(TYPE), mask=d < D)
    else:
        move = base + CALL + R * RANGE + (m - 1) * MOVE
        if h < tl.load(move + 5):
            source = tl.load(move)
            turn = tl.load(move + 2)
            to = tl.load(move + 3).to(tl.pointer_type(TYPE)) + h * tl.load(move + 4)
            if source == 0:
                x = _turned(q + row * q_row + h * q_head, turn, D, D_PAD)
            else:
                x = _turned(source.to(tl.pointer_type(TYPE)) + h * tl.load(move + 1), turn, D, D_PAD)
            tl.store(to + d, x.to(TYPE), mask=d < D)
