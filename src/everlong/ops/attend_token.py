"""Attention of one new token of one stream over several ranges of keys, without a copy of any: the path of decoding.

Each range is one call of torch's flash kernel, whose query rows are the heads that share a kv head; the results are
merged by their log-sum-exp (FlashAttention, arXiv 2205.14135, section 3.1, over ranges in place of tiles). A range may
be cut into runs of equal length, whose shares of the attention are then known as well, for nothing more.

Letters: H query heads, G kv heads, F = H / G, n keys of a range, D head dim of keys and values, R runs of all ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class AttendedKeys(NamedTuple):
    """Keys and values that one query, turned to where they stand, attends to: all of them, in `runs` equal runs."""

    q: Float[Tensor, "1 H 1 D"]
    k: Float[Tensor, "1 G n D"]
    v: Float[Tensor, "1 G n D"]
    runs: int = 1


def takes(q: Tensor, k: Tensor, v: Tensor, softcap: float | None) -> bool:
    """Whether `attend_token` serves such tensors: one token, on a CPU, keys and values alike, no cap on scores."""
    alike = k.shape[3] == v.shape[3] and k.dtype == v.dtype == q.dtype
    return softcap is None and q.shape[0] == q.shape[2] == 1 and q.device.type == "cpu" and alike


def attend_token(
    ranges: Sequence[AttendedKeys], scale: float, s_aux: Float[Tensor, " H"] | None = None
) -> tuple[Float[Tensor, "1 1 H D"], Float[Tensor, "R G F"]]:
    """The output over all ranges, none of them empty, and what each run got of each head's attention.

    `s_aux` adds one logit per query head that takes weight and gives no value.

    >>> q, k, v = torch.ones(1, 2, 1, 4), torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4)
    >>> out, shares = attend_token([AttendedKeys(q, k, v, runs=3)], scale=0.5)
    >>> out.shape, [round(x, 3) for x in shares[:, 0, 0].tolist()]
    (torch.Size([1, 1, 2, 4]), [0.333, 0.333, 0.333])
    """
    found = [_runs(r, scale) for r in ranges]
    first, lse = found[0]
    if len(found) > 1:
        first = torch.cat([out for out, _ in found])
        lse = torch.cat([lse for _, lse in found])
    R, G, F, D = first.shape
    if R == 1 and s_aux is None:
        return first.view(1, 1, G * F, D), torch.ones_like(lse)
    if s_aux is None:
        shares = torch.softmax(lse, 0)
    else:
        shares = torch.softmax(torch.cat([lse, s_aux.to(lse.dtype).view(1, G, F)]), 0)[:R]
    out = (first * shares[..., None]).sum(0)
    return out.to(first.dtype).view(1, 1, G * F, D), shares


def _runs(part: AttendedKeys, scale: float) -> tuple[Float[Tensor, "R G F D"], Float[Tensor, "R G F"]]:
    """Output and log-sum-exp of each run of one range."""
    q, k, v, runs = part
    _, G, n, D = k.shape
    q = q.reshape(1, G, -1, D)
    if runs > 1:
        q = q.expand(runs, -1, -1, -1)
        k, v = (x[0].unflatten(1, (runs, n // runs)).transpose(0, 1) for x in (k, v))
    out, lse = _flash(q, k, v, scale=scale)
    return out, lse
