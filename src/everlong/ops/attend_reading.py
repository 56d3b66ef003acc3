"""Attention of many new tokens by the extension (native/reading.c): keys in tiles, packed once for a kv head's queries.

Scores and sums stay in float32, also where keys and values are bfloat16.

Letters: B batch, H query heads, G kv heads, T new tokens, M keys of a part, D head dim of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.ops.native import extension
from everlong.ops.spans import Ints, KeyIntervals

_HEAD_MULTIPLE = 16
_MOST_PARTS = 16
SeenPart = tuple[Tensor, Tensor, Tensor, int, KeyIntervals]
"""Query [B, H, T, D], keys [B, G, M, D] and values of a part, the column that its intervals count from, and these."""


def reader(parts: Sequence[Any], softcap: float | None) -> Any | None:
    """The extension, if it takes such parts: on a CPU, float32 or bfloat16, keys and values of a head side by side."""
    q, k = parts[0].q, parts[0].k
    D = q.shape[3]
    if softcap is not None or q.device.type != "cpu" or D % _HEAD_MULTIPLE or len(parts) > _MOST_PARTS:
        return None
    if q.dtype not in (torch.float32, torch.bfloat16) or any(part.mass is not None for part in parts):
        return None
    tensors = [x for part in parts for x in (part.k, part.v)]
    alike = all(x.dtype == q.dtype and x.shape[3] == D and x.stride(3) == 1 and x.stride(2) == D for x in tensors)
    return extension() if alike and k.shape[1] and all(part.q.stride(3) == 1 for part in parts) else None


def attend_reading(native: Any, parts: Sequence[SeenPart], scale: float, s_aux: Tensor | None) -> Tensor:
    """The output [B, T, H, D] of every query over all parts; a query that sees nothing gets 0."""
    B, H, T, D = parts[0][0].shape
    G = parts[0][1].shape[1]
    dtype = parts[0][0].dtype
    out = torch.empty(B, T, H, D, dtype=dtype)
    aux = None if s_aux is None else s_aux.float().contiguous()
    for b in range(B):
        words: list[int] = []
        bounds: list[Ints] = []
        for q, k, v, start, span in parts:
            row = b if len(span.lo) > 1 else 0
            bounds += [np.ascontiguousarray(span.lo[row]), np.ascontiguousarray(span.hi[row])]
            at = start * D * dtype.itemsize
            words += [q[b].data_ptr(), k[b].data_ptr() + at, v[b].data_ptr() + at]
            words += [bounds[-2].ctypes.data, bounds[-1].ctypes.data]
            words += [q.stride(1), q.stride(2), k.stride(1), v.stride(1)]
        native.reading(
            out[b].data_ptr(),
            0 if aux is None else aux.data_ptr(),
            H,
            G,
            D,
            T,
            float(scale),
            dtype == torch.bfloat16,
            torch.get_num_threads(),
            *words,
        )
    return out
