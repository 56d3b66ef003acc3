"""One softmax over several parts of a context, in tiles.

A part is a set of keys with its own query (turned to where those keys stand) and an interval of visible keys
for each query (`Span`). The parts share one softmax, computed online (running maximum and sum in float32), so
memory grows with a tile and not with tokens x keys. Grouped query heads are folded into the rows of one matrix
product; key heads are never copied.

Source of the online softmax: Milakov and Gimelshein, arXiv 1805.02867; of tiling: FlashAttention, 2205.14135.

Letters: B batch, H query heads, G kv heads, F = H / G query heads that share one kv head, T new tokens,
M keys of a part, D head dim of keys, E head dim of values, N = B * G.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.ops.spans import Span

LOG2E = math.log2(math.e)
FLOOR = -1e30
"""Start of the running maximum: finite, so that a fully masked row gives weight 0 and never NaN."""

FEW_ROWS = 16
"""Half products with so few rows (decoding) are slower than converting the keys to float32."""

TILE_QUERIES = 64
TILE_KEYS = 512
ONE_SHOT_SCORES = 1 << 18
"""Up to so many scores in all, the whole score matrix is made at once."""


def native_half(q: Tensor) -> bool:
    """Whether this machine multiplies matrices of q's half type in hardware (else float32 products are faster)."""
    return q.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512"


@dataclass
class Part:
    """Keys that share one query rotation."""

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B G M D"]
    v: Float[Tensor, "B G M E"]
    span: Span


@dataclass
class Scratch:
    """Reusable working memory, so that a stream does not allocate and free large tensors at every layer."""

    _flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor of `shape`, valid until the next `take` of this name."""
        size, key = math.prod(shape), (name, dtype, like.device)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < size:
            flat = self._flat[key] = torch.empty(size, dtype=dtype, device=like.device)
        return flat[:size].view(*shape)


def attend(
    parts: Sequence[Part],
    scale: float,
    softcap: float | None = None,
    s_aux: Float[Tensor, " H"] | None = None,
    scratch: Scratch | None = None,
    tile_queries: int = TILE_QUERIES,
    tile_keys: int = TILE_KEYS,
) -> Float[Tensor, "B T H E"]:
    """Attention output of every query over all parts, in the layout that transformers expects.

    `scale` multiplies the scores, `softcap` c replaces a score s by c * tanh(s / c), and `s_aux` adds one logit
    per query head that takes weight and gives no value. A query that sees nothing gets 0.

    >>> q, k, v = torch.ones(1, 2, 1, 4), torch.ones(1, 1, 3, 4), torch.arange(3.0).view(1, 1, 3, 1)
    >>> attend([Part(q, k, v, Span.affine(1, lo=(1, 0, 3), hi=(3, 0, 3)))], scale=0.5).flatten().tolist()
    [1.5, 1.5]
    """
    if torch.is_grad_enabled() and any(t.requires_grad for p in parts for t in (p.q, p.k, p.v)):
        return attend_naive(parts, scale, softcap, s_aux)
    tiled = _Attend(parts, scale, softcap, s_aux, scratch or Scratch())
    tokens = parts[0].q.shape[2]
    if tiled.rows_total * sum(_width(p, 0, tokens) for p in parts) <= ONE_SHOT_SCORES:
        tiled.run(0, tokens, one_shot=True, tile_keys=tile_keys)
    else:
        for i in range(0, tokens, tile_queries):
            tiled.run(i, min(i + tile_queries, tokens), one_shot=False, tile_keys=tile_keys)
    return tiled.out


def attend_naive(
    parts: Sequence[Part], scale: float, softcap: float | None = None, s_aux: Tensor | None = None
) -> Float[Tensor, "B T H E"]:
    """The same by dense masks and one plain softmax: the slow reference, and the path that has gradients."""
    scores, values = [], []
    for part in parts:
        fold = part.q.shape[1] // part.k.shape[1]
        k, v = (x.repeat_interleave(fold, 1) for x in (part.k, part.v))
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
    value = torch.cat(values, 2)
    return (weight[..., : value.shape[2]].to(value.dtype) @ value).transpose(1, 2)


def _width(part: Part, i0: int, i1: int) -> int:
    first, _, _, end = part.span.limits(i0, i1)
    return max(0, end - first)


class _Attend:
    """One call of attend: the folded shapes and the running softmax of the current query tile."""

    def __init__(
        self, parts: Sequence[Part], scale: float, softcap: float | None, s_aux: Tensor | None, scratch: Scratch
    ) -> None:
        q = parts[0].q
        self.parts, self.scale, self.softcap, self.s_aux, self.scratch = parts, scale, softcap, s_aux, scratch
        self.B, self.H, T, _ = q.shape
        self.G = parts[0].k.shape[1]
        self.F, self.N, self.E = self.H // self.G, self.B * self.G, parts[0].v.shape[3]
        self.rows_total = self.B * self.H * T
        self.out = q.new_empty(self.B, T, self.H, self.E)
        self.wide = q.dtype in (torch.float32, torch.float64)
        self.acc_dtype = q.dtype if self.wide else torch.float32
        self.native = not self.wide and native_half(q)
        self.unit = LOG2E * (scale if softcap is None else softcap)

    def run(self, i0: int, i1: int, one_shot: bool, tile_keys: int) -> None:
        """Fill `out[:, i0:i1]`."""
        tiles = [(p, *t) for p in self.parts for t in _tiles(p.span, i0, i1, tile_keys)]
        rows = self.F * (i1 - i0)
        self.m, self.l = self._start(i1 - i0, rows)
        self.acc = self.scratch.take("acc", (self.N, rows, self.E), self.out, self.acc_dtype).zero_()
        folded = {id(p): self._fold(p.q[:, :, i0:i1]) for p in self.parts}
        if one_shot:
            self._joint(tiles, folded, i0, i1)
        else:
            for part, j0, j1 in tiles:
                s = self.scratch.take("scores", (self.N, rows, j1 - j0), self.out, self.acc_dtype)
                self._score(folded[id(part)], part, j0, j1, i0, i1, s)
                self._online(s, part.v[:, :, j0:j1].flatten(0, 1))
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

    def _score(self, q: Tensor, part: Part, j0: int, j1: int, i0: int, i1: int, s: Tensor) -> None:
        """Write the scores of one tile into `s` [N, rows, keys], in units of 1 / `unit`, -inf where hidden."""
        self._product(q, part.k[:, :, j0:j1].flatten(0, 1).transpose(1, 2), s)
        if self.softcap is not None:
            s.mul_(self.scale / self.softcap).tanh_()
        first_all, end_all = part.span.limits(i0, i1)[1:3]
        edges = ((j0, min(first_all, j1)), (max(end_all, j0, first_all), j1))
        for e0, e1 in edges:
            if e0 < e1:
                mask = part.span.mask((i0, i1), (e0, e1), s)
                s.view(self.B, self.G, self.F, i1 - i0, j1 - j0)[..., e0 - j0 : e1 - j0] += mask

    def _product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """out = a @ b in the accumulation type; `out` may be a slice."""
        if self.native and a.shape[1] > FEW_ROWS:
            out.copy_(torch.bmm(a, b, out=self.scratch.take("half", out.shape, a, a.dtype)))
        elif out.is_contiguous():
            torch.bmm(a.to(out.dtype), b.to(out.dtype), out=out)
        else:
            out.copy_(torch.bmm(a.to(out.dtype), b.to(out.dtype)))

    def _online(self, s: Tensor, v: Tensor) -> None:
        """Fold one tile of scores into the running maximum, sum and output."""
        shrink = self._soften(s)
        self._weigh(s, v, shrink)

    def _soften(self, s: Tensor) -> Tensor:
        """Turn scores into weights in place; returns by how much the weights so far have shrunk [N, rows, 1]."""
        m_new = torch.maximum(self.m, s.amax(-1, keepdim=True).mul_(self.unit))
        shrink = torch.exp2(self.m - m_new)
        self.m = m_new
        torch.add(m_new.neg(), s, alpha=self.unit, out=s).exp2_()
        self.l.mul_(shrink).add_(s.sum(-1, keepdim=True))
        return shrink

    def _weigh(self, p: Tensor, v: Tensor, shrink: Tensor | None) -> None:
        """acc = shrink * acc + p @ v."""
        if shrink is not None:
            self.acc.mul_(shrink)
        if self.native and p.shape[1] > FEW_ROWS:
            self.acc.add_(torch.bmm(self.scratch.take("half", p.shape, v, v.dtype).copy_(p), v))
        else:
            self.acc.baddbmm_(p, v.to(p.dtype))

    def _joint(self, tiles: list[tuple[Part, int, int]], folded: dict[int, Tensor], i0: int, i1: int) -> None:
        """Few scores in all: one score matrix over every tile, one softmax."""
        rows, width = self.F * (i1 - i0), sum(j1 - j0 for _, j0, j1 in tiles)
        if not width:
            return
        s = self.scratch.take("scores", (self.N, rows, width), self.out, self.acc_dtype)
        at, slices = 0, []
        for part, j0, j1 in tiles:
            slices.append(s[:, :, at : at + j1 - j0])
            self._score(folded[id(part)], part, j0, j1, i0, i1, slices[-1])
            at += j1 - j0
        self._soften(s)
        for (part, j0, j1), p in zip(tiles, slices, strict=True):
            self._weigh(p, part.v[:, :, j0:j1].flatten(0, 1), None)


def _tiles(span: Span, i0: int, i1: int, size: int) -> list[tuple[int, int]]:
    """The keys that any of the queries sees, cut into nearly equal tiles of at most `size`."""
    first, _, _, end = span.limits(i0, i1)
    if end <= first:
        return []
    count = -(-(end - first) // size)
    cuts = [first + (end - first) * n // count for n in range(count + 1)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))
