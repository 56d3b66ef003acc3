"""Infini-attention over whole segments: local attention and the compressive memory, joined by a gate.

Source: arXiv 2404.07143, sections 2.1.2 and 2.2. `local="segment"` is the paper's: a token attends to its own segment,
and the memory holds all segments before. `local="xl"` lets it attend to the segment before as well, and the memory then
holds what lies behind that. While the memory is empty the output is the local attention alone, or a converted
checkpoint would lose a part of its first segment.

Letters: B rows, H query heads, G kv heads, N segments, L tokens per segment, P = L ("xl") or 0 tokens of the past, D, E
head dims.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.ops.compressive import Update, fold_all, recall
from everlong.ops.segments import NONE, Aligned, last_known, past, past_seen, segment_attention


@dataclass(frozen=True, eq=False)
class InfiniState:
    """What one layer carries from one group of segments to the next.

    M [B, G, D, E] and z [B, G, D] hold what was folded of `document` [B]; the last segment, which "xl" has not folded
    yet, is there as rotated and raw keys, values, its documents [B, P] and the weights of its writing [B, P].
    """

    M: Float[Tensor, "B G D E"]
    z: Float[Tensor, "B G D"]
    document: Int[Tensor, " B"]
    k: Float[Tensor, "B G P D"]
    raw_k: Float[Tensor, "B G P D"]
    v: Float[Tensor, "B G P E"]
    of: Int[Tensor, "B P"]
    write: Float[Tensor, "B P"]

    @classmethod
    def empty(cls, k: Tensor, v: Tensor, tokens: int) -> InfiniState:
        """The state before the first token, for keys like `k` and values like `v`; P = `tokens`."""
        B, G, _, D = k.shape
        E = v.shape[3]
        wide = torch.promote_types(k.dtype, torch.float32)
        none = torch.full((B,), NONE, dtype=torch.long, device=k.device)
        return cls(
            k.new_zeros(B, G, D, E, dtype=wide),
            k.new_zeros(B, G, D, dtype=wide),
            none,
            k.new_zeros(B, G, tokens, D),
            k.new_zeros(B, G, tokens, D),
            v.new_zeros(B, G, tokens, E),
            none[:, None].expand(B, tokens),
            k.new_zeros(B, tokens, dtype=wide),
        )

    def norm(self) -> float:
        """Frobenius norm of M over all heads, the mean over rows."""
        return float(self.M.detach().flatten(1).norm(dim=1).mean())

    def detach(self) -> InfiniState:
        """The same numbers, through which no gradient flows."""
        return InfiniState(**{f.name: getattr(self, f.name).detach() for f in fields(self)})


def infini_attention(
    q: Float[Tensor, "B H NL D"],
    k: Float[Tensor, "B G NL D"],
    v: Float[Tensor, "B G NL E"],
    raw_q: Float[Tensor, "B H NL D"],
    raw_k: Float[Tensor, "B G NL D"],
    gate: Float[Tensor, " H"],
    text: Aligned,
    scale: float,
    update: Update,
    state: InfiniState,
    write: Float[Tensor, "B NL"] | None = None,
) -> tuple[Float[Tensor, "B H NL E"], InfiniState]:
    """The attention of N segments at once, and the state behind them.

    `q`, `k` are rotated and `raw_q`, `raw_k` are not. `gate` is the share of the memory, sigmoid(beta) (equation 10).
    `write` multiplies what each token adds to the memory (1 if None).
    """
    L = text.length
    P = state.k.shape[2]
    seen = past_seen(text.document, text.valid, state.of, L)
    local = segment_attention(q, k, v, past(k, state.k, L), past(v, state.v, L), seen, scale)
    weight = text.valid.to(state.z.dtype) if write is None else text.valid * write.to(state.z.dtype)
    behind = _Behind(state, raw_k, v, weight, text)
    Ms, zs = fold_all(behind.k, behind.v, state.M, state.z, update, behind.write, behind.restarts)
    B, H, _, D = q.shape
    N = text.document.shape[1]
    asked = raw_q.view(B, H, N, L, D).transpose(1, 2)
    answer = recall(asked, Ms[:, :, :N].transpose(1, 2), zs[:, :, :N].transpose(1, 2))
    far = answer.transpose(1, 2).reshape(B, H, N * L, -1).to(local.dtype)
    g = gate.to(local.dtype)[:, None, None]
    held = behind.held(text.document).repeat_interleave(L, 1)[:, None, :, None]
    out = torch.where(held, g * far + (1 - g) * local, local)
    return out, behind.after(Ms, zs, k, P)


class _Behind:
    """The segments that are folded while N segments are read, in their order: one after each of them.

    "segment": the N segments themselves. "xl": the carried one and the first N - 1.
    """

    def __init__(self, state: InfiniState, raw_k: Tensor, v: Tensor, weight: Tensor, text: Aligned) -> None:
        L = text.length
        P = state.k.shape[2]
        self.state = state
        self.L = L
        every_k = torch.cat([state.raw_k, raw_k], 2)
        every_v = torch.cat([state.v, v], 2)
        every_write = torch.cat([state.write, weight], 1)
        every_of = torch.cat([state.of[:, :1], text.document], 1) if P else text.document
        N = text.document.shape[1]
        B, G = v.shape[:2]
        self.k, self.v = (x[:, :, : N * L].reshape(B, G, N, L, -1) for x in (every_k, every_v))
        self.write, self.of = every_write[:, : N * L].view(B, N, L), every_of[:, :N]
        self.rest = every_k[:, :, N * L :], every_v[:, :, N * L :], every_write[:, N * L :], every_of[:, N:]
        known = last_known(torch.cat([state.document[:, None], self.of], 1))
        self.before, self.document = known[:, :-1], known[:, -1]
        self.restarts = (self.of != self.before) & (self.of != NONE) & (self.before != NONE)

    def held(self, document: Tensor) -> Tensor:
        """Whether the memory that segment n reads, the one before fold n, holds anything of its document: [B, N]."""
        return (self.before == document) & (document != NONE)

    def after(self, Ms: Tensor, zs: Tensor, k: Tensor, P: int) -> InfiniState:
        """The state behind all segments."""
        raw_k, v, write, of = self.rest
        rotated = k[:, :, k.shape[2] - P :]
        return InfiniState(
            Ms[:, :, -1], zs[:, :, -1], self.document, rotated, raw_k, v, of.repeat_interleave(self.L, 1), write
        )


def infini_attention_naive(
    q: Float[Tensor, "H T D"],
    k: Float[Tensor, "G T D"],
    v: Float[Tensor, "G T E"],
    raw_q: Float[Tensor, "H T D"],
    raw_k: Float[Tensor, "G T D"],
    gate: Float[Tensor, " H"],
    segment: int,
    scale: float,
    update: Update,
    xl: bool,
    write: Float[Tensor, " T"] | None = None,
) -> Float[Tensor, "H T E"]:
    """One document read by the paper's equations, head by head and segment by segment: the slow reference."""
    T = q.shape[1]
    back = segment if xl else 0
    write = raw_k.new_ones(T) if write is None else write
    heads = []
    for h in range(len(q)):
        g = h // (len(q) // len(k))
        M = v.new_zeros(k.shape[2], v.shape[2])
        z = k.new_zeros(k.shape[2])
        rows = []
        for start in range(0, T, segment):
            if (first := start - segment - back) >= 0:  # the segment that has left the window is folded
                sigma = _elu1(raw_k[g, first : first + segment])
                values = v[g, first : first + segment]
                if update == "delta" and bool(z.any()):
                    values = values - (sigma @ M) / (sigma @ z)[:, None]
                sigma = sigma * write[first : first + segment, None]
                M = M + sigma.T @ values
                z = z + sigma.sum(0)
            for t in range(start, min(start + segment, T)):
                window = slice(max(0, start - back), t + 1)
                dot = torch.softmax(scale * (k[g, window] @ q[h, t]), 0) @ v[g, window]
                if bool(z.any()):
                    sigma = _elu1(raw_q[h, t])
                    dot = gate[h] * (sigma @ M) / (sigma @ z) + (1 - gate[h]) * dot
                rows.append(dot)
        heads.append(torch.stack(rows))
    return torch.stack(heads)


def _elu1(x: Tensor) -> Tensor:
    return torch.nn.functional.elu(x) + 1
