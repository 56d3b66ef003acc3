"""Rows of equal size in a few large tensors that grow without moving; forks share what was written before."""

from __future__ import annotations

import bisect
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from everlong.ops.spans import Ints

NONE = np.empty(0, np.int64)


def allocated_rows(rows: int, first: int, largest: int) -> int:
    """How many rows a `Slabs` makes room for when it holds `rows`."""
    total, slabs = 0, 0
    while total < rows and first << slabs < largest:
        total, slabs = total + (first << slabs), slabs + 1
    return total + max(0, -(-(rows - total) // largest)) * largest


class Slabs:
    """Rows [columns], numbered from 0 and written in order; the newest may be written again.

    Slabs double from `first` rows to `largest`, so that short texts cost little and long ones few tensors. Where they
    begin depends on nothing else, so that sums over a slab come out the same to the bit after a fork or a restart. A
    slab that two forks hold is copied before it is written. Rows that are `gone` leave their room to those after them.
    """

    def __init__(self, columns: int, dtype: torch.dtype, first: int, largest: int) -> None:
        self.columns, self.dtype, self.first, self.largest = columns, dtype, first, largest
        self._starts: list[int] = []
        self._slabs: list[Tensor] = []
        self._shared = 0
        self.gone = NONE

    def _place(self, n: int) -> int:
        """Where row `n` lies: behind the rows below it that are still here."""
        return n - int(np.searchsorted(self.gone, n))

    def _at(self, place: int) -> Tensor:
        at = bisect.bisect_right(self._starts, place) - 1
        return self._slabs[at][place - self._starts[at]]

    def row(self, n: int) -> Tensor:
        """A view of row `n`."""
        return self._at(self._place(n))

    def room(self, n: int) -> Tensor:
        """Row `n` to be written, behind all that stays."""
        return self._room(self._place(n))

    def _room(self, n: int) -> Tensor:
        end = self._starts[-1] + len(self._slabs[-1]) if self._slabs else 0
        with torch.inference_mode(False):
            if n >= end:
                size = min(self.first << len(self._slabs), self.largest)
                self._slabs.append(torch.empty(size, self.columns, dtype=self.dtype))
                self._starts.append(end)
            elif len(self._slabs) <= self._shared:
                self._slabs[-1] = self._slabs[-1].clone()
                self._shared = len(self._slabs) - 1
        return self._at(n)

    def numbers(self, count: int) -> Ints:
        """Which of the first `count` rows are here."""
        here = np.ones(count, bool)
        here[self.gone[: count - self._place(count)]] = False
        return np.flatnonzero(here)

    def rows(self, count: int) -> list[Tensor]:
        """Those of the first `count` rows that are here, slab by slab [n, columns]."""
        count = self._place(count)
        return [slab[: count - start] for start, slab in zip(self._starts, self._slabs, strict=True) if start < count]

    def joined(self, count: int) -> Tensor:
        """The same in one new tensor [n, columns]."""
        return torch.cat([torch.empty(0, self.columns, dtype=self.dtype), *self.rows(count)])

    def restore(self, rows: Tensor, gone: Ints = NONE) -> None:
        """Take saved rows, those that are `gone` left out; for a fresh object."""
        at, self.gone = 0, gone
        while at < len(rows):
            self._room(at)
            slab = self._slabs[-1][: len(rows) - at]
            slab.copy_(rows[at : at + len(slab)])
            at += len(slab)

    def without(self, gone: Ints, count: int) -> None:
        """Let these of the first `count` rows be gone, ascending, those that already were included.

        The rows behind them move up, and slabs that are then empty are freed.
        """
        kept = self.numbers(count)
        places = np.flatnonzero(np.isin(kept, gone, invert=True))
        first = int(np.flatnonzero(np.append(places, -1) != np.arange(len(places) + 1))[0])
        cuts = np.flatnonzero(np.diff(places[first:], prepend=-1) != 1)
        for a, b in pairwise([*(cuts + first).tolist(), len(places)]):
            self._move(int(places[a]), a, b - a)
        needed = bisect.bisect_left(self._starts, len(places))
        del self._slabs[needed:], self._starts[needed:]
        self._shared, self.gone = min(self._shared, needed), gone

    def _move(self, source: int, target: int, count: int) -> None:
        """Move `count` rows to the front, slab by slab."""
        while count:
            a, b = (bisect.bisect_right(self._starts, x) - 1 for x in (source, target))
            at, to = source - self._starts[a], target - self._starts[b]
            n = min(count, len(self._slabs[a]) - at, len(self._slabs[b]) - to)
            rows = self._slabs[a][at : at + n].clone()
            self._own(b)
            self._slabs[b][to : to + n] = rows
            source, target, count = source + n, target + n, count - n

    def _own(self, slab: int) -> None:
        """Copy the slabs from `slab` on that forks hold too."""
        with torch.inference_mode(False):
            for n in range(slab, self._shared):
                self._slabs[n] = self._slabs[n].clone()
        self._shared = min(self._shared, slab)

    def fork(self) -> Slabs:
        """The same rows, sharing their memory."""
        other = Slabs(self.columns, self.dtype, self.first, self.largest)
        other._starts, other._slabs, other.gone = list(self._starts), list(self._slabs), self.gone
        self._shared = other._shared = len(self._slabs)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.nbytes for slab in self._slabs)
