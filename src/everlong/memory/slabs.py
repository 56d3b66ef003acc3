"""Rows of equal size in a few large tensors that grow without moving; forks share what was written before."""

from __future__ import annotations

import bisect

import torch
from torch import Tensor


class Slabs:
    """Rows [columns], numbered from 0 and written in order; the newest may be written again.

    Slabs double from `first` rows to `largest`, so that short texts cost little and long ones few tensors. Where they
    begin depends on nothing else, so that sums over a slab come out the same to the bit after a fork or a restart. A
    slab that two forks hold is copied before it is written.
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
        with torch.inference_mode(False):
            if n >= end:
                size = min(self.first << len(self._slabs), self.largest)
                self._slabs.append(torch.empty(size, self.columns, dtype=self.dtype))
                self._starts.append(end)
            elif len(self._slabs) <= self._shared:
                self._slabs[-1] = self._slabs[-1].clone()
                self._shared = len(self._slabs) - 1
        return self.row(n)

    def rows(self, count: int) -> list[Tensor]:
        """The first `count` rows, slab by slab [n, columns]."""
        return [slab[: count - start] for start, slab in zip(self._starts, self._slabs, strict=True) if start < count]

    def joined(self, count: int) -> Tensor:
        """The first `count` rows in one new tensor [count, columns]."""
        return torch.cat([torch.empty(0, self.columns, dtype=self.dtype), *self.rows(count)])

    def restore(self, rows: Tensor) -> None:
        """Take saved rows; for a fresh object."""
        at = 0
        while at < len(rows):
            self.room(at)
            slab = self._slabs[-1][: len(rows) - at]
            slab.copy_(rows[at : at + len(slab)])
            at += len(slab)

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
