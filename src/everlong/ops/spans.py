"""Which keys each query sees, as intervals instead of masks.

Letters: R rows of the batch with intervals of their own (1 if all rows agree), T new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


@dataclass
class KeyIntervals:
    """Query i of row r sees key j if and only if `lo[r, i] <= j < hi[r, i]`.

    `lo` and `hi` are integer arrays [R, T], nondecreasing in i; an empty interval is allowed.
    They live on the host, because they decide which tiles are skipped, whole, or cut by an edge.
    """

    lo: Ints
    hi: Ints
    _masks: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)
    _bounds: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def affine(cls, tokens: int, lo: tuple[int, int, int], hi: tuple[int, int, int]) -> KeyIntervals:
        """The span with `clip(a + i, low, high)` for each of `lo` and `hi` given as (a, low, high)."""
        i = np.arange(tokens, dtype=np.int64)[None]
        first, end = (np.clip(i + a, low, high) for a, low, high in (lo, hi))
        return cls(first, end)

    def limits(self, i0: int, i1: int) -> tuple[int, int, int, int]:
        """(first key any sees, first key all see, end of what all see, end of what any sees) for i0..i1-1."""
        lo = self.lo
        hi = self.hi
        if lo.shape[0] == 1:
            return int(lo[0, i0]), int(lo[0, i1 - 1]), int(hi[0, i0]), int(hi[0, i1 - 1])
        return int(lo[:, i0].min()), int(lo[:, i1 - 1].max()), int(hi[:, i0].min()), int(hi[:, i1 - 1].max())

    def mask(self, rows: tuple[int, int], keys: tuple[int, int], like: Tensor) -> Tensor:
        """0 where a key is seen and -inf elsewhere: float32 [R, 1, 1, T', M'] for query rows x keys.

        The same tile is asked for by every layer of a step, so the answer is kept for the life of the span.
        """
        key = (*rows, *keys, like.device)
        if key not in self._masks:
            j = np.arange(*keys, dtype=np.int64)
            lo, hi = (bound[:, slice(*rows), None] for bound in (self.lo, self.hi))
            hidden = torch.from_numpy((j < lo) | (j >= hi)).to(like.device)
            mask = torch.zeros(hidden.shape, dtype=torch.float32, device=like.device).masked_fill_(hidden, -torch.inf)
            self._masks[key] = mask[:, None, None]
        return self._masks[key]

    def on(self, device: torch.device) -> Tensor:
        """Both bounds on a device, int32 [R, 2, T]; kept for the layers of a step, as masks are."""
        if device not in self._bounds:
            both = np.stack((self.lo, self.hi), 1).astype(np.int32)
            self._bounds[device] = torch.from_numpy(both).to(device)
        return self._bounds[device]
