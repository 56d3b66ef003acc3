"""Attention of one new token of one stream over several ranges of keys, without a copy of any: the path of decoding.

The extension makes one softmax over all ranges (native/attention.c). Without it each range is one call of torch's flash
kernel, whose query rows are the heads that share a kv head, and the results are merged by their log-sum-exp
(FlashAttention, arXiv 2205.14135, section 3.1, over ranges in place of tiles). A range may be cut into runs of equal
length, whose shares of the attention are then known as well.

Letters: H query heads, G kv heads, F = H / G, M columns, n keys of a range, D head dim of keys and values, R runs of
all ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.ops.native import extension

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
HEAD_MULTIPLE = 16
_MOST_RANGES = 16


class AttendedKeys(NamedTuple):
    """Columns `first` .. `first + n - 1`, all of which one query, turned to where they stand, attends to.

    They are cut into `runs` equal runs.
    """

    q: Float[Tensor, "1 H 1 D"]
    k: Float[Tensor, "1 G M D"]
    v: Float[Tensor, "1 G M D"]
    first: int
    n: int
    runs: int = 1


def takes(q: Tensor, k: Tensor, v: Tensor, softcap: float | None) -> bool:
    """Whether `attend_token` serves such tensors: one token, on a CPU, keys and values alike, no cap on scores."""
    alike = k.shape[3] == v.shape[3] and k.dtype == v.dtype == q.dtype
    return softcap is None and q.shape[0] == q.shape[2] == 1 and q.device.type == "cpu" and alike


def attend_token(
    ranges: Sequence[AttendedKeys], scale: float, s_aux: Float[Tensor, " H"] | None = None, shares: bool = False
) -> tuple[Float[Tensor, "1 1 H D"], Float[Tensor, "R G F"] | None]:
    """The output over all ranges, none of them empty, and (`shares`) what each run got of each head's attention.

    `s_aux` adds one logit per query head that takes weight and gives no value.

    >>> q, k, v = torch.ones(1, 2, 1, 4), torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4)
    >>> out, shares = attend_token([AttendedKeys(q, k, v, 0, 3, runs=3)], scale=0.5, shares=True)
    >>> out.shape, [round(x, 3) for x in shares[:, 0, 0].tolist()]
    (torch.Size([1, 1, 2, 4]), [0.333, 0.333, 0.333])
    """
    native = extension()
    if native is not None and _suits(ranges):
        return _by_extension(native, ranges, scale, s_aux, shares)
    found = [_runs(part, scale) for part in ranges]
    out = torch.cat([out for out, _ in found])
    lse = torch.cat([lse for _, lse in found])
    R, G, F, D = out.shape
    joint = lse if s_aux is None else torch.cat([lse, s_aux.to(lse.dtype).view(1, G, F)])
    weights = torch.softmax(joint, 0)[:R]
    merged = (out * weights[..., None]).sum(0).to(out.dtype)
    return merged.view(1, 1, G * F, D), weights if shares else None


def _suits(ranges: Sequence[AttendedKeys]) -> bool:
    """Whether the extension reads such tensors: keys of a head side by side, in float32 or bfloat16."""
    dim = ranges[0].q.shape[3]
    if dim % HEAD_MULTIPLE or len(ranges) > _MOST_RANGES or ranges[0].q.dtype not in (torch.float32, torch.bfloat16):
        return False
    return all(x.stride(3) == 1 and x.stride(2) == dim for part in ranges for x in (part.k, part.v))


def _by_extension(
    native: Any, ranges: Sequence[AttendedKeys], scale: float, s_aux: Tensor | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    q = ranges[0].q
    H = q.shape[1]
    G = ranges[0].k.shape[1]
    D = q.shape[3]
    size = q.element_size()
    out = torch.empty(1, 1, H, D, dtype=q.dtype)
    shares = torch.empty(sum(part.runs for part in ranges), G, H // G) if wanted else None
    aux = None if s_aux is None else s_aux.float().contiguous()
    queries = [part.q if part.q.is_contiguous() else part.q.contiguous() for part in ranges]
    words: list[int] = []
    for part, query in zip(ranges, queries, strict=True):
        at = part.first * D * size
        words += [query.data_ptr(), part.k.data_ptr() + at, part.v.data_ptr() + at, part.n, part.runs]
        words += [part.k.stride(1), part.v.stride(1)]
    native.attention(
        out.data_ptr(),
        0 if shares is None else shares.data_ptr(),
        0 if aux is None else aux.data_ptr(),
        H,
        G,
        D,
        float(scale),
        q.dtype == torch.bfloat16,
        torch.get_num_threads(),
        *words,
    )
    return out, shares


def _runs(part: AttendedKeys, scale: float) -> tuple[Float[Tensor, "R G F D"], Float[Tensor, "R G F"]]:
    """Output and log-sum-exp of each run of one range."""
    k, v = (x.narrow(2, part.first, part.n) for x in (part.k, part.v))
    q = part.q.reshape(1, k.shape[1], -1, k.shape[3])
    if part.runs > 1:
        q = q.expand(part.runs, -1, -1, -1)
        k, v = (x[0].unflatten(1, (part.runs, part.n // part.runs)).transpose(0, 1) for x in (k, v))
    out, lse = _flash(q, k, v, scale=scale)
    return out, lse
