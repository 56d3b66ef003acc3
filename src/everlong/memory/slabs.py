"""Rows of equal size in a few large tensors that grow without moving; forks share what was written before."""

from __future__ import annotations

import bisect

import torch
from torch import Tensor


class Slabs:
    """Rows [columns], numbered from 0 and written in order; the newest may be written again.

    Slabs double from `first` rows to `largest`, so that short texts cost little and long ones few tensors. A slab
    that two forks hold is never written again.
    """

    def __init__(self, columns: int, dtype: torch.dtype, first: int, largest: int) -> None:
        self.columns, self.dtype, self.first, self.largest = columns, dtype, first, largest
        self._starts: list[int] = []
        self._slabs: list[Tensor] = []
        self._shared = 0

    def row(self, n: int) -> Tensor:
        """A view of row `n`."""
        at = bisect.bisect_right(self._starts, n) - 1
        return self._slabs[at][n - self._starts[at]]

    def room(self, n: int) -> Tensor:
        """Row `n` to be written, behind all that stays."""
        end = self._starts[-1] + len(self._slabs[-1]) if self._slabs else 0
        if n >= end or len(self._slabs) <= self._shared:
            if n < end:
                self._slabs[-1] = self._slabs[-1][: n - self._starts[-1]]
                end = n
            size = min(self.first << len(self._slabs), self.largest)
            with torch.inference_mode(False):
                self._slabs.append(torch.empty(size, self.columns, dtype=self.dtype))
            self._starts.append(end)
        return self.row(n)

    def rows(self, count: int) -> list[Tensor]:
        """The first `count` rows, slab by slab [n, columns]."""
        return [slab[: count - start] for start, slab in zip(self._starts, self._slabs, strict=True) if start < count]

    def joined(self, count: int) -> Tensor:
        """The first `count` rows in one new tensor [count, columns]."""
        return torch.cat([torch.empty(0, self.columns, dtype=self.dtype), *self.rows(count)])

    def restore(self, rows: Tensor) -> None:
        """Take saved rows; for a fresh object."""
        if len(rows):
            self._starts, self._slabs = [0], [rows.to(self.dtype).contiguous()]

    def fork(self) -> Slabs:
        """The same rows, sharing their memory."""
        other = Slabs(self.columns, self.dtype, self.first, self.largest)
        other._starts, other._slabs = list(self._starts), list(self._slabs)
        self._shared = other._shared = len(self._slabs)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.nbytes for slab in self._slabs)
