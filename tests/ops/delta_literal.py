"""The delta rule as it is written: one token after the other, head by head, in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def conv(x: Tensor, taps: Tensor) -> Tensor:
    """[T, C]: sum over lags j of taps[:, j] x[t - j]; nothing stands before the first token."""
    rows = []
    for t in range(len(x)):
        row = torch.zeros_like(x[0])
        for lag in range(min(t + 1, taps.shape[1])):
            row = row + taps[:, lag] * x[t - lag]
        rows.append(row)
    return torch.stack(rows)


def square(x: Tensor) -> Tensor:
    """phi of one vector: x x^T, whose inner products are squares of inner products."""
    return torch.outer(x, x).flatten()


def rule(q: Tensor, k: Tensor, v: Tensor, b: Tensor, a: Tensor, degree: int, reset: int | None = None) -> Tensor:
    """One head: q, k [T, D], v [T, E], b, a [T] -> [T, E]. q and k need not be of unit length."""
    phi = square if degree == 2 else lambda x: x
    M = v.new_zeros(len(phi(k[0])), v.shape[1])
    out = []
    for t in range(len(q)):
        if reset is not None and t % reset == 0:
            M = torch.zeros_like(M)
        key = phi(k[t])
        M = a[t] * M
        M = M + b[t] * torch.outer(key, v[t] - key @ M)
        out.append(phi(q[t]) @ M)
    return torch.stack(out)


def read(hidden, q, k, v, given, heads, kv_heads, degree, write=None, reset=None):
    """What one row reads in a layer: [H, T, E], before W_m or s. `q`, `k`, `v` [T, heads * dim] are the model's raw."""
    if "W_q" in given:
        q, k, v = (hidden @ given[name].T for name in ("W_q", "W_k", "W_v"))
    q, k, v = (conv(x, given[name]) for x, name in ((q, "taps_q"), (k, "taps_k"), (v, "taps_v")))
    b = torch.sigmoid(hidden @ given["w_b"].T)
    if write is not None:
        b = 1 - (1 - b) ** write[:, None]
    a = torch.sigmoid(hidden @ given["w_a"].T + 7) if "w_a" in given else torch.ones_like(b)
    found = []
    for h in range(heads):
        g = h // (heads // kv_heads)
        qs = q.unflatten(1, (heads, -1))[:, h]
        ks, vs = (x.unflatten(1, (kv_heads, -1))[:, g] for x in (k, v))
        qs, ks = (x / x.norm(dim=1, keepdim=True) for x in (qs, ks))
        found.append(rule(qs, ks, vs, b[:, g], a[:, g], degree, reset))
    return torch.stack(found)
