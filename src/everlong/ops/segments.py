"""Text cut into segments: where each token lies, and attention inside a segment and to the tokens just before it.

Segments are counted from the start of each document, so a document is read alike wherever it stands in a row. In the
aligned form every document begins a segment and its last segment is filled up: [B, N * L] tokens, of which some are
no tokens.

Letters: B rows, H query heads, G kv heads, T tokens of a row, N segments, L tokens per segment, P tokens of the past
that a segment sees, D, E head dims.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NONE = -1
"""The document of a place that holds no token."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """Rows of tokens cut into segments.

    `source` [B, N * L] is the place in the row that each aligned place shows, `target` [B, T] the aligned place of each
    token (both None where nothing moves), `document` [B, N] the document of each segment (NONE for one without
    tokens), `valid` [B, N * L] which places hold tokens, `position` [B, N * L] their place in their document.
    """

    length: int
    source: Int[Tensor, "B NL"] | None
    target: Int[Tensor, "B T"] | None
    document: Int[Tensor, "B N"]
    valid: Bool[Tensor, "B NL"]
    position: Int[Tensor, "B NL"]

    def align(self, x: Tensor) -> Tensor:
        """Values of tokens [B, T, ...] at their aligned places [B, N * L, ...]; what fills up is token 0."""
        return x if self.source is None else _pick(x, self.source)

    def back(self, x: Tensor) -> Tensor:
        """The inverse of `align`; places without a document show the row's first aligned place."""
        return x if self.target is None else _pick(x, self.target)


def aligned(document: Int[Tensor, "B T"], length: int) -> Aligned:
    """The aligned form of rows whose tokens belong to `document` (NONE: padding), in segments of `length`.

    >>> aligned(torch.tensor([[0, 0, 0, 1]]), 2).source.tolist()
    [[0, 1, 2, 0, 3, 0]]
    """
    B, T = document.shape
    if T % length == 0 and bool((document == document[:, :1]).all()) and bool((document[:, 0] != NONE).all()):
        each = torch.arange(T, device=document.device).expand(B, T)
        return Aligned(length, None, None, document[:, ::length], torch.ones_like(document, dtype=torch.bool), each)
    position = _positions(document)
    first = (position % length == 0) & (document != NONE)
    segment = first.long().cumsum(1) - 1
    N = max(1, int(segment.max()) + 1)
    target = torch.where(document == NONE, 0, segment * length + position % length)
    rows = torch.arange(B, device=document.device)[:, None].expand(B, T)
    real = document != NONE
    source = torch.zeros(B, N * length, dtype=torch.long, device=document.device)
    valid = torch.zeros_like(source, dtype=torch.bool)
    places = torch.arange(T, device=document.device).expand(B, T)
    source[rows[real], target[real]] = places[real]
    valid[rows[real], target[real]] = True
    of = torch.full((B, N), NONE, dtype=torch.long, device=document.device)
    of[rows[first], segment[first]] = document[first]
    where = torch.zeros_like(source)
    where[rows[real], target[real]] = position[real]
    return Aligned(length, source, target, of, valid, where)


def past(x: Float[Tensor, "B G NL D"], carried: Float[Tensor, "B G P D"], length: int) -> Float[Tensor, "B G N P D"]:
    """The P tokens before each segment; those before the first are `carried`."""
    P = carried.shape[2]
    if P == 0:
        return x.new_empty(*x.shape[:2], x.shape[2] // length, 0, x.shape[3])
    joined = torch.cat([carried, x], 2)[:, :, : x.shape[2] - length + P]
    return joined.unfold(2, P, length).transpose(3, 4)


def past_seen(
    document: Int[Tensor, "B N"], valid: Bool[Tensor, "B NL"], carried: Int[Tensor, "B P"], length: int
) -> Bool[Tensor, "B N P"]:
    """Which of the tokens of `past` belong to the same document as the segment; `carried` are documents of tokens."""
    B, P = carried.shape
    if P == 0:
        return torch.zeros(B, document.shape[1], 0, dtype=torch.bool, device=document.device)
    own = torch.where(valid, document.repeat_interleave(length, 1), NONE)
    joined = torch.cat([carried, own], 1)[:, : own.shape[1] - length + P]
    return (joined.unfold(1, P, length) == document[:, :, None]) & (document != NONE)[:, :, None]


def last_known(document: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    """At each place the last document that is not NONE, up to there."""
    places = torch.arange(document.shape[1], device=document.device).expand_as(document)
    return document.gather(1, torch.where(document != NONE, places, 0).cummax(1).values)


def owners(
    document: Int[Tensor, "B N"], valid: Bool[Tensor, "B NL"], carried: Int[Tensor, "B P"], length: int
) -> Int[Tensor, "B P"]:
    """The documents of the last P tokens, those of the earlier ones being `carried`."""
    own = torch.where(valid, document.repeat_interleave(length, 1), NONE)
    return torch.cat([carried, own], 1)[:, own.shape[1] :]


def segment_attention(
    q: Float[Tensor, "B H NL D"],
    k: Float[Tensor, "B G NL D"],
    v: Float[Tensor, "B G NL E"],
    past_k: Float[Tensor, "B G N P D"],
    past_v: Float[Tensor, "B G N P E"],
    seen: Bool[Tensor, "B N P"],
    scale: float,
    newest: int | None = None,
) -> Float[Tensor, "B H NL E"]:
    """Causal attention inside each segment, and to what is `seen` of its past; one softmax, all segments at once.

    With `newest` a token sees no more than so many of the newest tokens, itself included.
    """
    B, H, _, D = q.shape
    G, N, P, E = past_v.shape[1:]
    L = q.shape[2] // N
    F = H // G
    folded = q.view(B, G, F, N, L, D).permute(0, 3, 1, 2, 4, 5).reshape(B * N, G, F * L, D)
    keys, values = (
        torch.cat([old, new.view(B, G, N, L, -1)], 3).transpose(1, 2).reshape(B * N, G, P + L, -1)
        for old, new in ((past_k, k), (past_v, v))
    )
    causal = torch.ones(L, L, dtype=torch.bool, device=q.device).tril()
    mask = torch.cat([seen[:, :, None].expand(B, N, L, P), causal.expand(B, N, L, L)], -1)
    if newest is not None:
        mask = mask & torch.ones(L, P + L, dtype=torch.bool, device=q.device).triu(P + 1 - newest)
    mask = mask.view(B * N, 1, 1, L, P + L).expand(-1, 1, F, -1, -1).reshape(B * N, 1, F * L, P + L)
    out = torch.nn.functional.scaled_dot_product_attention(folded, keys, values, mask, scale=scale)
    return out.view(B, N, G, F, L, E).permute(0, 2, 3, 1, 4, 5).reshape(B, H, N * L, E)


def _positions(document: Tensor) -> Tensor:
    """The place of each token in its document: a document is a run of equal numbers."""
    T = document.shape[1]
    places = torch.arange(T, device=document.device).expand_as(document)
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return places - torch.where(begins, places, 0).cummax(1).values


def _pick(x: Tensor, places: Tensor) -> Tensor:
    index = places.view(*places.shape, *([1] * (x.ndim - 2))).expand(*places.shape, *x.shape[2:])
    return x.gather(1, index)
