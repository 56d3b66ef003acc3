"""The delta rule with features that name one pair of tokens: a matrix that is corrected by every token it takes in.

    M_t = a_t M_{t-1} + b_t phi(k_t) (v_t - phi(k_t)^T a_t M_{t-1})^T          o_t = phi(q_t)^T M_t

phi(q).phi(k) = (q.k)^degree. Inside a segment all of it is products: with the decay from token j to token i of the
segment d_ij = a_{j+1} .. a_i and g_i = a_1 .. a_i, what token i writes is u_i = b_i (v_i - g_i phi(k_i)^T M -
sum_{j<i} d_ij (k_i.k_j)^degree u_j), a triangular system, and o_i = g_i phi(q_i)^T M + sum_{j<=i} d_ij
(q_i.k_j)^degree u_j (the form of DeltaNet's chunks, arXiv 2406.06484). One after the other are left the segments alone.

Letters: B rows, H query heads, G kv heads, R = H / G, T new tokens, N segments, L tokens per segment, S tokens of the
open segment before the new ones, D key dim, E value dim, F numbers of phi, C channels, K taps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PIECE = 32
"""Segments are worked through in pieces of at most so many tokens, whose products with each other cost its square."""


class Writes(NamedTuple):
    """What the rule takes of each token: unit queries and keys, values, the strength b of writing, log of the decay a.

    `q` [B, H, T, D], `k` [B, G, T, D], `v` [B, G, T, E], `b` and `log_a` [B, G, T] (None where nothing decays).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    b: Tensor
    log_a: Tensor | None

    def part(self, first: int, end: int) -> Writes:
        """The tokens `first` .. `end - 1`."""
        q, k, v, b = (x[:, :, first:end] for x in self[:4])
        return Writes(q, k, v, b, None if self.log_a is None else self.log_a[:, :, first:end])


class OpenSegment(NamedTuple):
    """The tokens of a segment that is not full: keys [B, G, S, D], what they wrote [B, G, S, E], log of g [B, G, S]."""

    k: Tensor
    u: Tensor
    log_g: Tensor | None


def features(x: Float[Tensor, "*any T D"], degree: int) -> Float[Tensor, "*any T F"]:
    """phi(x): x itself for degree 1; for degree 2 the D (D / 2 + 1) products of its numbers, D even.

    >>> q, k = torch.randn(2, 3, 8, dtype=torch.float64)
    >>> bool(torch.allclose(features(q, 2) @ features(k, 2).T, (q @ k.T) ** 2))
    True
    """
    if degree == 1:
        return x
    half = x.shape[-1] // 2
    twice = 2**0.5 * x
    between = [twice * x.roll(j, -1) for j in range(1, half)]
    return torch.cat([x * x, *between, x * x.roll(half, -1)], -1)


def feature_count(dim: int, degree: int) -> int:
    """F, how many numbers `features` gives for a key of `dim` numbers."""
    return dim if degree == 1 else dim * (dim // 2 + 1)


def convolved(
    x: Float[Tensor, "B KT C"], taps: Float[Tensor, "C K"], document: Int[Tensor, "B KT"]
) -> Float[Tensor, "B T C"]:
    """Each channel's sum over lags j of taps[j] x[t - j], for all but the first K - 1 places.

    A lag that reaches into another document counts nothing.
    """
    K = taps.shape[1]
    T = x.shape[1] - K + 1
    alone = bool((document == document[:, :1]).all())
    out = taps[:, 0] * x[:, K - 1 :]
    for lag in range(1, K):
        earlier = slice(K - 1 - lag, K - 1 - lag + T)
        heard = x[:, earlier]
        if not alone:
            heard = heard * (document[:, earlier] == document[:, K - 1 :])[..., None]
        out = torch.addcmul(out, heard, taps[:, lag])
    return out


def read_segments(
    tokens: Writes, M: Float[Tensor, "B G F E"], length: int, degree: int, restart: Bool[Tensor, "B N"] | None = None
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B G F E"]]:
    """What the tokens of whole segments of `length` read, and M behind them. `restart` empties M before a segment."""
    piece = _piece(length)
    k, v, b, f = (x.unflatten(2, (-1, piece)) for x in (*tokens[1:4], features(tokens.k, degree)))
    q, read = (_grouped(x, k.shape[1], piece) for x in (tokens.q, features(tokens.q, degree)))
    log_g = None if tokens.log_a is None else tokens.log_a.unflatten(2, (-1, piece)).cumsum(3)
    heard, kept, left = f, f, None
    if log_g is not None:
        heard = f * log_g.exp()[..., None]
        kept = f * (log_g[..., -1:] - log_g).exp()[..., None]
        left = log_g[..., -1].exp()[..., None, None].unbind(2)
    keep = None if restart is None else ~restart.repeat_interleave(length // piece, 1)
    starts = _starts(restart, length // piece)
    found, written = [], []
    # unbind: the gradient of x[:, :, n] would fill a tensor of the size of x for each n
    each = (x.unbind(2) for x in (_inverse(k, b, log_g, degree) * b[..., None, :], v, heard, kept))
    for n, (solve, v_n, heard_n, kept_n) in enumerate(zip(*each, strict=True)):
        if keep is not None and starts[n]:
            M = M * keep[:, n, None, None, None]
        u = solve @ (v_n - heard_n @ M)
        found.append(M)
        written.append(u)
        M = (M if left is None else M * left[n]) + kept_n.transpose(-1, -2) @ u
    if log_g is not None:
        read = read * log_g.exp()[:, :, :, None, :, None]
    near = _scores(q, k[:, :, :, None], _each(log_g), _each(log_g), degree).tril()
    out = read @ torch.stack(found, 2)[:, :, :, None] + near @ torch.stack(written, 2)[:, :, :, None]
    return _ungrouped(out), M


def read_open(
    tokens: Writes, M: Float[Tensor, "B G F E"], before: OpenSegment, degree: int
) -> tuple[Float[Tensor, "B H T E"], OpenSegment]:
    """What new tokens of one segment read, and what they are `before` later ones; M is that of the segment's start."""
    k, v, b = tokens.k, tokens.v, tokens.b
    T = k.shape[2]
    log_g = None
    if tokens.log_a is not None:
        assert before.log_g is not None
        log_g = tokens.log_a.cumsum(2) + (before.log_g[:, :, -1:] if before.log_g.shape[2] else 0)
    heard = features(k, degree) @ M
    if log_g is not None:
        heard = heard * log_g.exp()[..., None]
    heard = heard + _scores(k, before.k, log_g, before.log_g, degree) @ before.u
    system = _system(k, b, log_g, degree)
    u = torch.linalg.solve_triangular(system, b[..., None] * (v - heard), upper=False, unitriangular=True)
    q = _grouped(tokens.q, k.shape[1], T)[:, :, 0]
    read = features(q, degree)
    if log_g is not None:
        read = read * log_g.exp()[:, :, None, :, None]
    own = _scores(q, k[:, :, None], _each(log_g), _each(log_g), degree).tril()
    old = _scores(q, before.k[:, :, None], _each(log_g), _each(before.log_g), degree)
    out = read @ M[:, :, None] + own @ u[:, :, None] + old @ before.u[:, :, None]
    return _ungrouped(out[:, :, None]), OpenSegment(k, u, log_g)


def fold_open(M: Float[Tensor, "B G F E"], full: OpenSegment, degree: int) -> Float[Tensor, "B G F E"]:
    """M behind a segment that is full."""
    f = features(full.k, degree)
    if full.log_g is None:
        return M + f.transpose(-1, -2) @ full.u
    last = full.log_g[..., -1:]
    return M * last.exp()[..., None] + (f * (last - full.log_g).exp()[..., None]).transpose(-1, -2) @ full.u


def _starts(restart: Bool[Tensor, "B N"] | None, pieces: int) -> list[bool]:
    """For each piece of each segment whether any row's memory restarts before it."""
    if restart is None:
        return []
    return [first and n == 0 for first in restart.any(0).tolist() for n in range(pieces)]


def _piece(length: int) -> int:
    """The largest divisor of the segment's length that is at most PIECE; the length itself if that would be tiny."""
    return next((size for size in range(min(length, PIECE), 7, -1) if length % size == 0), length)


def _scores(a: Tensor, b: Tensor, log_a: Tensor | None, log_b: Tensor | None, degree: int) -> Float[Tensor, "*any T S"]:
    """(a_i.b_j)^degree times the decay from token j of `b` to token i of `a`, where j is not the later one."""
    scores = (a @ b.transpose(-1, -2)) ** degree
    if log_a is None or log_b is None:
        return scores
    return scores * (log_a[..., :, None] - log_b[..., None, :]).clamp_max(0).exp()


def _system(k: Tensor, b: Tensor, log_g: Tensor | None, degree: int) -> Float[Tensor, "*any L L"]:
    """The triangle of what tokens take from what earlier ones of the same piece wrote; its diagonal counts as 1."""
    return (b[..., None] * _scores(k, k, log_g, log_g, degree)).tril(-1)


def _inverse(k: Tensor, b: Tensor, log_g: Tensor | None, degree: int) -> Float[Tensor, "*any L L"]:
    """The inverse of 1 + the triangle."""
    eye = torch.eye(k.shape[-2], dtype=k.dtype, device=k.device)
    system = _system(k, b, log_g, degree)
    return torch.linalg.solve_triangular(system, eye.expand_as(system), upper=False, unitriangular=True)


def _each(log_g: Tensor | None) -> Tensor | None:
    """[B, G, ..., 1, L]: the same for all queries of a kv head."""
    return None if log_g is None else log_g.unsqueeze(-2)


def _grouped(q: Float[Tensor, "B H T D"], heads: int, piece: int) -> Float[Tensor, "B G N R L D"]:
    """The queries of each kv head together, in pieces."""
    return q.unflatten(1, (heads, -1)).unflatten(3, (-1, piece)).transpose(2, 3)


def _ungrouped(out: Float[Tensor, "B G N R L E"]) -> Float[Tensor, "B H T E"]:
    """The inverse of `_grouped`."""
    return out.transpose(2, 3).flatten(3, 4).flatten(1, 2)
