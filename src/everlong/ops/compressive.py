"""The compressive memory of Infini-attention: a matrix of constant size that whole segments are folded into.

Source: "Leave No Context Behind", arXiv 2404.07143, section 2.1.2; equation numbers are the paper's. Computed in
float32 at least, whatever the model's type: in bfloat16 a sum of many segments stops growing. Queries and keys come
without rotation, because a place that was forgotten has no distance.

Letters: B rows, H query heads, G kv heads, N segments, L tokens per segment, T tokens, D key dim, E value dim.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Update = Literal["linear", "delta"]


def features(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """sigma(x) = ELU(x) + 1 (under equation 7), always positive and exact for very negative x, in float32 at least.

    >>> [f"{x:.3g}" for x in features(torch.tensor([-20.0, 0.0, 3.0])).tolist()]
    ['2.06e-09', '1', '4']
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x.clamp_max(0).exp() + x.relu()


def recall(
    q: Float[Tensor, "*rows H T D"], M: Float[Tensor, "*rows G D E"], z: Float[Tensor, "*rows G D"]
) -> Float[Tensor, "*rows H T E"]:
    """What the memory answers to each query, A_mem = sigma(Q) M / (sigma(Q) z) (equation 7); 0 from an empty memory."""
    *rows, H, T, D = q.shape
    f = features(q).reshape(*rows, z.shape[-2], -1, D)
    return _ratio(f @ M, f @ z[..., None]).reshape(*rows, H, T, M.shape[-1])


def fold(
    k: Float[Tensor, "B G L D"],
    v: Float[Tensor, "B G L E"],
    M: Float[Tensor, "B G D E"],
    z: Float[Tensor, "B G D"],
    update: Update,
    write: Float[Tensor, "B L"] | None = None,
) -> tuple[Float[Tensor, "B G D E"], Float[Tensor, "B G D"]]:
    """The memory with one more segment in it: equation 8 ("linear") or 9 ("delta").

    All tokens of the segment are compared with the same memory, the one before it. `write` multiplies what a token
    adds: 0 leaves it out (padding), w stands for w repetitions of it.
    """
    f = features(k)
    weighted = f if write is None else f * write[:, None, :, None].to(f.dtype)
    news = v.to(f.dtype)
    if update == "delta":
        news = news - _ratio(f @ M, f @ z[..., None])
    return M + weighted.transpose(-1, -2) @ news, z + weighted.sum(-2)


def fold_all(
    k: Float[Tensor, "B G N L D"],
    v: Float[Tensor, "B G N L E"],
    M: Float[Tensor, "B G D E"],
    z: Float[Tensor, "B G D"],
    update: Update,
    write: Float[Tensor, "B N L"] | None = None,
    restart: Bool[Tensor, "B N"] | None = None,
) -> tuple[Float[Tensor, "B G N1 D E"], Float[Tensor, "B G N1 D"]]:
    """The memories before the first, and after each, of N segments (N1 = N + 1), all computed at once.

    `restart` empties the memory before a segment (a new document). Linear: sums. Delta: M_s = A_s M_{s-1} + U_s with
    A_s = I - sum_t sigma(k_t) sigma(k_t)^T / (sigma(k_t) z_{s-1}), which is equation 9 multiplied out: only products
    of D x D matrices are left to do one after the other.
    """
    f = features(k)
    weighted = f if write is None else f * write[:, None, :, :, None].to(f.dtype)
    added = weighted.transpose(-1, -2) @ v.to(f.dtype)
    zs = _sums(z, weighted.sum(-2), restart)
    if update == "linear":
        return _sums(M, added, restart), zs
    before = zs[:, :, :-1]
    if restart is not None:
        before = before * ~restart[:, None, :, None]
    kept = weighted.transpose(-1, -2) @ _ratio(f, f @ before[..., None])
    found = [M]
    for n in range(k.shape[2]):
        old = found[-1]
        if restart is not None:
            old = old * ~restart[:, None, n, None, None]
        found.append(old - kept[:, :, n] @ old + added[:, :, n])
    return torch.stack(found, 2), zs


def _sums(first: Tensor, added: Tensor, restart: Tensor | None) -> Tensor:
    """[B G N + 1 ...]: `first`, then `first` and what was `added` [B G N ...] since the last restart."""
    if restart is None or not bool(restart.any()):
        return torch.cat([first[:, :, None], added], 2).cumsum(2)
    n = torch.arange(added.shape[2] + 1, device=added.device)
    started = torch.cat([torch.zeros_like(restart[:, :1], dtype=torch.long), restart.long()], 1).cumsum(1)
    share = (started[:, :, None] == started[:, None, :]) & (n[None, :] <= n[:, None])
    terms = torch.cat([first[:, :, None], added], 2)
    return (share[:, None].to(terms.dtype) @ terms.flatten(3)).view(terms.shape)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0 (an empty memory)."""
    return a / torch.where(b == 0, torch.inf, b)
