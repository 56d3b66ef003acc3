"""One softmax over several parts of a context, in tiles.

A part is a set of keys with its own query (turned to where those keys stand) and an interval of visible keys
for each query (`KeyIntervals`). The parts share one softmax, computed online (running maximum and sum in float32), so
memory grows with a tile and not with tokens x keys. Grouped query heads are folded into the rows of one matrix
product; key heads are never copied.

Source of the online softmax: Milakov and Gimelshein, arXiv 1805.02867; of tiling: FlashAttention, 2205.14135.

Letters: B batch, H query heads, G kv heads, F = H / G query heads that share one kv head, T new tokens,
M keys of a part, D head dim of keys, E head dim of values, N = B * G.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.machine import multiplies
from everlong.ops.attend_reading import attend_reading, reader
from everlong.ops.attend_token import AttendedKeys, attend_token, takes
from everlong.ops.gpu import reading_attention as on_gpu
from everlong.ops.spans import KeyIntervals
from everlong.ops.workspace import Workspace

LOG2E = math.log2(math.e)
FLOOR = -1e30
"""Start of the running maximum: finite, so that a fully masked row gives weight 0 and never NaN."""
TILE_QUERIES = 64
HALF_TILE_QUERIES = 256
"""Queries per tile: as many scores as stay in the cache; more where half products in hardware are that much faster."""

TILE_KEYS = 512
ONE_SHOT_SCORES = 1 << 18
"""Up to so many scores in all, the whole score matrix is made at once."""
DEVICE_TILE_QUERIES = 1024
DEVICE_TILE_KEYS = 4096
DEVICE_ONE_SHOT_SCORES = 1 << 26
"""The same on accelerators, where what costs is how often work is handed over, and not a cache: 256 MiB of scores."""


def native_half(q: Tensor) -> bool:
    """Whether this machine multiplies matrices of q's half type in hardware (else float32 products are faster)."""
    return q.device.type != "cpu" or multiplies(q.dtype)


@dataclass
class AttentionPart:
    """Keys that share one query rotation: `span` counts them from column `start` on.

    `mass`, where given, is float32 at least: to each column is added what attention it received, summed over queries.
    """

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B G M D"]
    v: Float[Tensor, "B G M E"]
    span: KeyIntervals
    start: int = 0
    mass: Float[Tensor, "B H M"] | None = None


def attend(
    parts: Sequence[AttentionPart],
    scale: float,
    softcap: float | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    scratch: Workspace | None = None,
    tile_queries: int | None = None,
    tile_keys: int | None = None,
) -> Float[Tensor, "B T H E"]:
    """Attention output of every query over all parts, in the layout that transformers expects.

    `scale` multiplies the scores, `softcap` c replaces a score s by c * tanh(s / c), and `s_aux` adds one logit
    per query head that takes weight and gives no value. A query that sees nothing gets 0.

    >>> q, k, v = torch.ones(1, 2, 1, 4), torch.ones(1, 1, 3, 4), torch.arange(3.0).view(1, 1, 3, 1)
    >>> seen = KeyIntervals.affine(1, lo=(1, 0, 3), hi=(3, 0, 3))
    >>> attend([AttentionPart(q, k, v, seen)], scale=0.5).flatten().tolist()
    [1.5, 1.5]
    """
    if torch.is_grad_enabled() and any(t.requires_grad for p in parts for t in (p.q, p.k, p.v)):
        return attend_naive(parts, scale, softcap, s_aux)
    like = parts[0]
    tokens = like.q.shape[2]
    shown = [(p, *p.span.limits(0, tokens)) for p in parts]
    shown = [(p, first, first_all, end_all, end) for p, first, first_all, end_all, end in shown if first < end]
    if tokens == 1 and shown and takes(like.q, like.k, like.v, softcap) and all(p.mass is None for p in parts):
        ranges = [AttendedKeys(p.q, p.k, p.v, p.start + first, end - first) for p, first, _, _, end in shown]
        return attend_token(ranges, scale, s_aux)[0]
    seen = [(p.q, p.k, p.v, p.start, p.span) for p, *_ in shown]
    if seen and (native := reader(parts, softcap)) is not None:
        return attend_reading(native, seen, scale, s_aux)
    if seen and on_gpu.takes(like.q, parts):
        return on_gpu.attend_on_gpu(seen, scale, softcap, s_aux)
    on_device = like.q.device.type != "cpu"
    at_once = DEVICE_ONE_SHOT_SCORES if on_device else ONE_SHOT_SCORES
    if math.prod(like.q.shape[:3]) * sum(end - first for _, first, _, _, end in shown) <= at_once:
        return _at_once(like, shown, scale, softcap, s_aux)
    tiled = _Tiled(parts, scale, softcap, s_aux, scratch or Workspace())
    step = tile_queries or (DEVICE_TILE_QUERIES if on_device else HALF_TILE_QUERIES if tiled.native else TILE_QUERIES)
    for i in range(0, tokens, step):
        tiled.run(i, min(i + step, tokens), tile_keys or (DEVICE_TILE_KEYS if on_device else TILE_KEYS))
    return tiled.out


def attend_naive(
    parts: Sequence[AttentionPart], scale: float, softcap: float | None = None, s_aux: Tensor | None = None
) -> Float[Tensor, "B T H E"]:
    """The same by dense masks and one plain softmax: the slow reference, and the path that has gradients."""
    scores = []
    values = []
    for part in parts:
        fold = part.q.shape[1] // part.k.shape[1]
        k, v = (x[:, :, part.start :].repeat_interleave(fold, 1) for x in (part.k, part.v))
        s = (part.q @ k.transpose(2, 3)).to(torch.promote_types(part.q.dtype, torch.float32)) * scale
        s = s if softcap is None else softcap * torch.tanh(s / softcap)
        keys = (0, k.shape[2])
        scores.append(s + part.span.mask((0, s.shape[2]), keys, s)[:, :, 0].to(s.dtype))
        values.append(v)
    joint = torch.cat(scores, -1)
    if s_aux is not None:
        joint = torch.cat([joint, s_aux.to(joint.dtype).view(1, -1, 1, 1).expand(*joint.shape[:3], 1)], -1)
    joint = joint - joint.detach().amax(-1, keepdim=True).clamp_min(FLOOR)
    weight = joint.exp()
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    at = 0
    for part in parts:
        end = at + part.k.shape[2] - part.start
        if part.mass is not None:
            part.mass[:, :, part.start :] += weight[..., at:end].detach().sum(2)
        at = end
    value = torch.cat(values, 2)
    return (weight[..., : value.shape[2]].to(value.dtype) @ value).transpose(1, 2)


def _at_once(
    like: AttentionPart,
    shown: list[tuple[AttentionPart, int, int, int, int]],
    scale: float,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Float[Tensor, "B T H E"]:
    """Few scores: one matrix of them over all parts [N, F * T, keys], one softmax. The path of decoding.

    `shown` holds each part with its `KeyIntervals.limits`. Computed in float32 at least.
    """
    B, H, T, D = like.q.shape
    G = like.k.shape[1]
    E = like.v.shape[3]
    dtype = torch.promote_types(like.q.dtype, torch.float32)
    if not shown:
        return like.q.new_zeros(B, T, H, E)
    scores = []
    for part, first, first_all, end_all, end in shown:
        k = _as(part.k.narrow(2, part.start + first, end - first), dtype).flatten(0, 1)
        s = torch.bmm(_as(part.q, dtype).reshape(B * G, -1, D), k.transpose(1, 2))
        if softcap is not None:
            s = s.mul_(scale / softcap).tanh_().mul_(softcap / scale)
        if first_all > first or end_all < end:
            s = (s.view(B, G, H // G, T, -1) + part.span.mask((0, T), (first, end), s)).view(s.shape)
        scores.append(s)
    if s_aux is not None:
        scores.append((s_aux.to(dtype) / scale).view(1, H, 1).expand(B, H, T).reshape(B * G, -1, 1))
    joint = scores[0] if len(scores) == 1 else torch.cat(scores, -1)
    weights = torch.softmax(joint.mul_(scale), -1)
    at = 0
    out: Any = None
    for part, first, _, _, end in shown:
        v = _as(part.v.narrow(2, part.start + first, end - first), dtype).flatten(0, 1)
        w = weights.narrow(2, at, end - first)
        if part.mass is not None:
            part.mass[..., part.start + first : part.start + end] += w.view(B, H, T, -1).sum(2)
        out = torch.bmm(w, v) if out is None else out.baddbmm_(w, v)
        at = at + end - first
    out = _as(out, like.q.dtype).view(B, H, T, E)
    if s_aux is None and (T > 1 or B > 1):
        blind = np.logical_and.reduce([part.span.hi <= part.span.lo for part, *_ in shown])
        if blind.any():
            out = out.masked_fill(torch.from_numpy(blind).to(out.device)[:, None, :, None], 0.0)
    return out.transpose(1, 2)


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


class _Tiled:
    """Many scores: the folded shapes and the running softmax of the current query tile."""

    def __init__(
        self,
        parts: Sequence[AttentionPart],
        scale: float,
        softcap: float | None,
        s_aux: Tensor | None,
        scratch: Workspace,
    ) -> None:
        q = parts[0].q
        self.parts = parts
        self.scale = scale
        self.softcap = softcap
        self.s_aux = s_aux
        self.scratch = scratch
        self.B, self.H, T = q.shape[:3]
        self.G = parts[0].k.shape[1]
        self.F, self.N, self.E = self.H // self.G, self.B * self.G, parts[0].v.shape[3]
        self.out = q.new_empty(self.B, T, self.H, self.E)
        self.wide = q.dtype in (torch.float32, torch.float64)
        self.acc_dtype = q.dtype if self.wide else torch.float32
        self.native = not self.wide and native_half(q)
        self.unit = LOG2E * (scale if softcap is None else softcap)

    def run(self, i0: int, i1: int, tile_keys: int) -> None:
        """Fill `out[:, i0:i1]`."""
        rows = self.F * (i1 - i0)
        self.m, self.l = self._start(i1 - i0, rows)
        self.acc = self.scratch.take("acc", (self.N, rows, self.E), self.out, self.acc_dtype).zero_()
        counted: list[tuple[Tensor, Tensor, Tensor]] = []
        for part in self.parts:
            q = self._fold(part.q[:, :, i0:i1])
            for j0, j1 in _tiles(part.span, i0, i1, tile_keys):
                k, v = (x.narrow(2, part.start + j0, j1 - j0).flatten(0, 1) for x in (part.k, part.v))
                name = "scores" if part.mass is None else f"scores{len(counted)}"
                s = self.scratch.take(name, (self.N, rows, j1 - j0), self.out, self.acc_dtype)
                self._product(q, k.transpose(1, 2), s)
                self._hide(s, part.span, (i0, i1), (j0, j1))
                self._weigh(s, v, self._soften(s))
                if part.mass is not None:
                    counted.append((part.mass[..., part.start + j0 : part.start + j1], s, self.m))
        for columns, s, m in counted:
            share = torch.exp2(m - self.m).div_(self.l.clamp_min(torch.finfo(self.acc_dtype).tiny))
            heads = self.B * self.H
            tokens = i1 - i0
            columns.add_(torch.bmm(share.view(heads, 1, tokens), s.view(heads, tokens, -1)).view(columns.shape))
        out = self.acc.div_(self.l.clamp_min_(torch.finfo(self.acc_dtype).tiny))
        self.out[:, i0:i1] = out.view(self.B, self.H, i1 - i0, self.E).transpose(1, 2)

    def _start(self, tokens: int, rows: int) -> tuple[Tensor, Tensor]:
        """Running maximum (in units of log2) and sum: [N, rows, 1]."""
        m = self.scratch.take("max", (self.N, rows, 1), self.out, self.acc_dtype)
        total = self.scratch.take("sum", (self.N, rows, 1), self.out, self.acc_dtype)
        if self.s_aux is None:
            return m.fill_(FLOOR), total.zero_()
        aux = self.s_aux.to(self.acc_dtype).view(1, self.H, 1).expand(self.B, self.H, tokens)
        m.copy_((aux * LOG2E).reshape(self.N, rows, 1))
        return m, total.fill_(1.0)

    def _fold(self, q: Tensor) -> Tensor:
        """[B, H, T, D] -> [N, F * T, D]: the heads of one kv head become rows."""
        return q.reshape(self.N, self.F * q.shape[2], q.shape[3])

    def _hide(self, s: Tensor, span: KeyIntervals, rows: tuple[int, int], keys: tuple[int, int]) -> None:
        """Cap the raw scores of one tile [N, F * rows, keys], and set to -inf those that are hidden."""
        if self.softcap is not None:
            s.mul_(self.scale / self.softcap).tanh_()
        first_all, end_all = span.limits(*rows)[1:3]
        for a, b in ((keys[0], min(first_all, keys[1])), (max(end_all, keys[0], first_all), keys[1])):
            if a < b:
                cut = s.view(self.B, self.G, self.F, rows[1] - rows[0], -1)[..., a - keys[0] : b - keys[0]]
                cut += span.mask(rows, (a, b), s)

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """out = a @ b in the accumulation type."""
        if self.native:
            out.copy_(torch.bmm(a, b, out=self.scratch.take("half", out.shape, a, a.dtype)))
        else:
            torch.bmm(a.to(out.dtype), b.to(out.dtype), out=out)

    def _soften(self, s: Tensor) -> Tensor:
        """Turn scores into weights in place; returns by how much the weights so far have shrunk [N, rows, 1]."""
        m_new = torch.maximum(self.m, s.amax(-1, keepdim=True).mul_(self.unit))
        shrink = torch.exp2(self.m - m_new)
        self.m = m_new
        torch.add(m_new.neg(), s, alpha=self.unit, out=s).exp2_()
        self.l.mul_(shrink).add_(s.sum(-1, keepdim=True))
        return shrink

    def _weigh(self, p: Tensor, v: Tensor, shrink: Tensor) -> None:
        """acc = shrink * acc + p @ v."""
        self.acc.mul_(shrink)
        if self.native:
            self.acc.add_(torch.bmm(self.scratch.take("half", p.shape, v, v.dtype).copy_(p), v))
        else:
            self.acc.baddbmm_(p, v.to(p.dtype))


def _tiles(span: KeyIntervals, i0: int, i1: int, size: int) -> list[tuple[int, int]]:
    """The keys that any of the queries sees, cut into nearly equal tiles of at most `size`."""
    first, _, _, end = span.limits(i0, i1)
    count = max(0, -(-(end - first) // size))
    cuts = [first + (end - first) * n // count for n in range(count + 1)] if count else []
    return list(itertools.pairwise(cuts))
