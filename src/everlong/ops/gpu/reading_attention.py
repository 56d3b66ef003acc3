"""One softmax of many new tokens over several parts of a context, on a GPU.

Letters: B batch, H query heads, G kv heads, T new tokens, M keys of a part, D head dim of keys, E of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from everlong.ops.attend_reading import SeenPart
from everlong.ops.gpu.available import runs_kernels

FEWEST_TOKENS = 16
"""Below so many new tokens a program for each head and tile would leave most of the GPU idle."""
MOST_DIM = 256
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def takes(q: Tensor, parts: Sequence[Any]) -> bool:
    """Whether `attend_on_gpu` serves such parts (of `AttentionPart`): many tokens, on a GPU, no masses counted."""
    if q.shape[2] < FEWEST_TOKENS or q.dtype not in _TYPES or not runs_kernels(q.device):
        return False
    tensors = [x for part in parts for x in (part.q, part.k, part.v)]
    plain = all(x.dtype == q.dtype and x.stride(3) == 1 and x.shape[3] <= MOST_DIM for x in tensors)
    return plain and all(part.mass is None and part.k.shape[1] for part in parts)


def attend_on_gpu(parts: Sequence[SeenPart], scale: float, softcap: float | None, s_aux: Tensor | None) -> Tensor:
    """The output [B, T, H, E] of every query over all parts; a query that sees nothing gets 0."""
    from everlong.ops.gpu import reading_kernels as kernels

    q = parts[0][0]
    B, H, T, D = q.shape
    G = parts[0][1].shape[1]
    E = parts[0][2].shape[3]
    out = torch.empty(B, T, H, E, dtype=q.dtype, device=q.device)
    many = len(parts) > 1
    floats = {"dtype": torch.float32, "device": q.device}
    state = [torch.empty(B, H, T, **floats) if many else out for _ in range(2)]
    state.append(torch.empty(B, H, T, E, **floats) if many else out)
    aux = out if s_aux is None else s_aux.float().contiguous()
    types: Any = {
        torch.float32: kernels.tl.float32,
        torch.bfloat16: kernels.tl.bfloat16,
        torch.float16: kernels.tl.float16,
    }
    pad = kernels.triton.next_power_of_2
    queries, keys, warps = _tile(q.dtype, max(D, E))
    sizes = {"H": H, "G": G, "D": D, "D_PAD": max(16, pad(D)), "E": E, "E_PAD": max(16, pad(E))}
    sizes |= {"QUERIES": queries, "KEYS": keys}
    grid = (-(-T // queries), B * H)
    for n, (query, k, v, start, span) in enumerate(parts):
        bounds = span.on(q.device)
        given = [x for t in (query, k[:, :, start:], v[:, :, start:]) for x in (t, *t.stride()[:3])]
        with torch.cuda.device_of(q):
            kernels.attend_part[grid](
                *given,
                bounds,
                bounds.stride(0) if len(bounds) > 1 else 0,
                T,
                *state,
                aux,
                out,
                float(scale),
                softcap or 1.0,
                **sizes,
                CAPPED=softcap is not None,
                HAS_AUX=s_aux is not None,
                FIRST=n == 0,
                LAST=n == len(parts) - 1,
                TYPE=types[q.dtype],
                num_warps=warps,
                num_stages=2,
            )
    return out


def _tile(dtype: torch.dtype, dim: int) -> tuple[int, int, int]:
    """Queries and keys of a tile, and warps: what fits into shared memory."""
    if dtype == torch.float32:
        return (64, 32, 4) if dim <= 128 else (32, 16, 4)
    return (128, 64, 4 if dim <= 64 else 8) if dim <= 128 else (64, 32, 4)
