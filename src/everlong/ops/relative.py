"""Attention that scores by content and by distance, over a memory and the segment that follows it.

Transformer-XL keeps positions out of the vectors, so that hidden states of earlier segments can be read again: the
score of query i for column j is, with the paper's four terms taken in pairs,

    scale * ((q_i + u) . k_j  +  (q_i + w) . r_d),    d = memory + i - j

where k = W_kE h, r = W_kR R, R the sinusoids of the distances d, and u, w are learned per head (w is the paper's v).
All distances are scored in one product, and a relative shift brings each score to its column.

Source: Transformer-XL, arXiv 1901.02860, section 3.3; the relative shift, its appendix B. Differences from the
authors' code: r counts distances upwards; the spare column of the shift is a zero row of r, where theirs is a padded
copy of the scores; memory may be absent row by row; and a query that sees nothing gets 0 and not NaN.

Letters: B batch (#B: B or 1), H query heads, G kv heads, T tokens of the segment, S columns: the memory, then the
segment (memory = S - T), A heads of r (H or G), D head dim of keys, E head dim of values.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from everlong.errors import ConfigError


def sinusoids(distances: Num[Tensor, "*P"], width: int, clamp: int | None = None) -> Float[Tensor, "*P W"]:
    """R: for each distance (in tokens) `width` numbers, its sines and then its cosines at falling frequencies.

    Distances beyond `clamp` count as `clamp` (the authors' clamp_len, for evaluation past the trained lengths).
    Angles are computed in float64; the result has the type of the distances, float32 at least. Of an odd width the
    last cosine is left out. Source: Vaswani et al., arXiv 1706.03762, section 3.5, in the order of Transformer-XL.

    >>> sinusoids(torch.tensor([0, 1, 9]), 2, clamp=1).round(decimals=3).tolist()
    [[0.0, 1.0], [0.8410000205039978, 0.5400000214576721], [0.8410000205039978, 0.5400000214576721]]
    """
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=distances.device) / width
    places = distances.to(torch.float64) if clamp is None else distances.to(torch.float64).clamp_max(clamp)
    angles = places[..., None] * 10000.0**-exponents
    wave = torch.cat([angles.sin(), angles.cos()], -1)[..., :width]
    return wave.to(torch.promote_types(distances.dtype, torch.float32))


def first_seen(
    tokens: int, memory: int, keys: int | None = None, device: torch.device | None = None
) -> Int[Tensor, "1 T"]:
    """[1, T]: the first column that each query of a segment sees; the last is its own, `memory` + i.

    With `keys` every query sees exactly so many columns, its own included: the authors' `same_length` is
    `keys=mem_len` (fewer only where the stream has not that many yet). None shows all that came before.

    >>> first_seen(3, memory=4).tolist(), first_seen(3, memory=4, keys=4).tolist()
    ([[0, 0, 0]], [[1, 2, 3]])
    """
    if keys is not None and keys < 1:
        raise ConfigError(f"keys={keys}: must be at least 1 (columns that a query sees, its own included)")
    own = torch.arange(memory, memory + tokens, device=device)[None]
    return torch.zeros_like(own) if keys is None else (own - keys + 1).clamp_min(0)


def relative_shift(scores: Float[Tensor, "*N T S1"]) -> Float[Tensor, "*N T S"]:
    """A view of `scores` [.., T, 1 + S], given by falling distance S - 1 .. 0, with (i, j) at distance S - T + i - j.

    Column 0 of `scores` is a spare one: as a row of the result is one entry shorter, each next row starts one
    distance further away. What stands after a query's own column (j > S - T + i) comes from the spare column and
    the next row, and must be masked.

    >>> relative_shift(torch.tensor([[9.0, 2.0, 1.0, 0.0], [9.0, 2.0, 1.0, 0.0]])).tolist()
    [[1.0, 0.0, 9.0], [2.0, 1.0, 0.0]]
    """
    tokens = scores.shape[-2]
    columns = scores.shape[-1] - 1
    return scores.flatten(-2)[..., tokens:].unflatten(-1, (tokens, columns))


def relative_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    r: Float[Tensor, "S A D"],
    u: Float[Tensor, "H D"],
    w: Float[Tensor, "H D"],
    first: Int[Tensor, "#B T"],
    scale: float,
    present: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B H T E"]:
    """What each query reads from the columns `first` .. its own, where `present` (None: all of them are).

    `q` and `k` carry no position. `r[d]` is the relative key of distance d = 0 .. S - 1, the same for all rows of
    the batch. A column that is absent (before the start of a row's stream, or padding) must still hold finite
    numbers; it gets no weight and no gradient. The softmax is computed in float32 at least.

    >>> q, k, v = torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 3, 1), torch.tensor([[[[0.0], [2.0], [7.0]]]])
    >>> r, u = torch.zeros(3, 1, 1), torch.zeros(1, 1)
    >>> relative_attention(q, k, v, r, u, u, first_seen(2, 1, keys=2), 1.0).flatten().tolist()
    [1.0, 4.5]
    """
    B, H, T, D = q.shape
    G = k.shape[1]
    S = k.shape[2]
    A = r.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    content = ((q + u.to(q.dtype)[:, None]).reshape(B, G, -1, D) @ k.transpose(2, 3)).to(wide)
    # One product per head of r over all rows of the batch, so that r is never copied; its row 0 is the spare column.
    relative = torch.nn.functional.pad(r.flip(0), (0, 0, 0, 0, 1, 0)).permute(1, 2, 0)
    asked = (q + w.to(q.dtype)[:, None]).reshape(B, A, -1, D).transpose(0, 1).reshape(A, -1, D)
    place = relative_shift((asked @ relative).view(A, B, -1, T, S + 1).transpose(0, 1))
    scores = (content.view(place.shape) + place).reshape(B, H, T, S) * scale
    hidden = _hidden(first.to(q.device), S, present)
    # A finite floor and a masked output keep gradients of blind queries at 0, where -inf gives NaN.
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1)
    out = (weights.to(v.dtype).view(B, G, -1, S) @ v).view(B, H, T, -1)
    return out.masked_fill(hidden.all(-1, keepdim=True), 0.0)


def relative_attention_naive(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S E"],
    r: Float[Tensor, "S A D"],
    u: Float[Tensor, "H D"],
    w: Float[Tensor, "H D"],
    first: Int[Tensor, "#B T"],
    scale: float,
    present: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B H T E"]:
    """The same, one score after the other: the slow reference, in the type of its arguments.

    >>> q, k, v = torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 3, 1), torch.tensor([[[[0.0], [2.0], [7.0]]]])
    >>> r, u = torch.zeros(3, 1, 1), torch.zeros(1, 1)
    >>> relative_attention_naive(q, k, v, r, u, u, first_seen(2, 1, keys=2), 1.0).flatten().tolist()
    [1.0, 4.5]
    """
    B, H, T, _ = q.shape
    G, S, E = v.shape[1:]
    out = []
    for b, h, i in itertools.product(range(B), range(H), range(T)):
        g = h * G // H
        a = h * r.shape[1] // H
        own = S - T + i
        seen = [j for j in range(int(first[b % len(first), i]), own + 1) if present is None or present[b, j]]
        scores = [(q[b, h, i] + u[h]) @ k[b, g, j] + (q[b, h, i] + w[h]) @ r[own - j, a] for j in seen]
        out.append((torch.stack(scores) * scale).softmax(0) @ v[b, g, seen] if seen else q.new_zeros(E))
    return torch.stack(out).view(B, H, T, E)


def _hidden(first: Tensor, columns: int, present: Tensor | None) -> Bool[Tensor, "#B 1 T S"]:
    """True where a query must not look: before `first`, after its own column, and where nothing is."""
    column = torch.arange(columns, device=first.device)
    own = column[columns - first.shape[1] :, None]
    hidden = ((column < first[..., None]) | (column > own))[:, None]
    return hidden if present is None else hidden | ~present[:, None, None]
