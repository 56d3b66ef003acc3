"""Rows of equal size in a few large tensors that grow without moving; forks share what was written before."""

from __future__ import annotations

import bisect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from everlong.ops.spans import Ints

NONE = np.empty(0, np.int64)


def allocated_rows(rows: int, first: int, largest: int) -> int:
    """How many rows a `GrowableRows` makes room for when it holds `rows`."""
    total = 0
    slabs = 0
    while total < rows and first << slabs < largest:
        total = total + (first << slabs)
        slabs = slabs + 1
    return total + max(0, -(-(rows - total) // largest)) * largest


class GrowableRows:
    """Rows [columns], numbered from 0 and written in order; the newest may be written again.

    Slabs double from `first` rows to `largest`, so that short texts cost little and long ones few tensors. Where they
    begin depends on nothing else, so that sums over a slab come out the same to the bit after a fork or a restart. A
    slab that two forks hold is copied before it is written. Rows that are `gone` leave their room to those after them.
    """

    def __init__(self, columns: int, dtype: torch.dtype, first: int, largest: int) -> None:
        self.columns = columns
        self.dtype = dtype
        self.first = first
        self.largest = largest
        self._starts: list[int] = []
        self._slabs: list[Tensor] = []
        self._shared = 0
        self._promised: tuple[int, Callable[[], Tensor]] | None = None
        self.gone = NONE

    def _place(self, n: int) -> int:
        """Where row `n` lies: behind the rows below it that are still here."""
        return n - int(np.searchsorted(self.gone, n))

    def _here(self) -> None:
        """Read what was promised."""
        if self._promised is not None:
            rows = self._promised[1]()
            self._promised = None
            self.restore(rows, self.gone)

    def _at(self, place: int) -> Tensor:
        at = bisect.bisect_right(self._starts, place) - 1
        return self._slabs[at][place - self._starts[at]]

    def row(self, n: int) -> Tensor:
        """A view of row `n`."""
        self._here()
        return self._at(self._place(n))

    def room(self, n: int) -> Tensor:
        """Row `n` to be written, behind all that stays."""
        self._here()
        return self._room(self._place(n))

    def own(self, n: int) -> Tensor:
        """Row `n`, which was written before, to be changed here alone: a slab that forks share is copied first."""
        self._here()
        place = self._place(n)
        slab = bisect.bisect_right(self._starts, place) - 1
        if slab < self._shared:
            with torch.inference_mode(False):
                self._slabs[slab] = self._slabs[slab].clone()
        return self._at(place)

    def _room(self, n: int) -> Tensor:
        end = self._starts[-1] + len(self._slabs[-1]) if self._slabs else 0
        with torch.inference_mode(False):
            if n >= end:
                size = min(self.first << len(self._slabs), self.largest)
                self._slabs.append(torch.empty(size, self.columns, dtype=self.dtype))
                self._starts.append(end)
            elif len(self._slabs) <= self._shared:
                # The newest slab is a fork's as well: what is written now must not show there.
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
        self._here()
        count = self._place(count)
        return [slab[: count - start] for start, slab in zip(self._starts, self._slabs, strict=True) if start < count]

    def joined(self, count: int) -> Tensor:
        """The same in one new tensor [n, columns]."""
        return torch.cat([torch.empty(0, self.columns, dtype=self.dtype), *self.rows(count)])

    def restore(self, rows: Tensor, gone: Ints = NONE) -> None:
        """Take saved rows, those that are `gone` left out; for a fresh object."""
        at = 0
        self.gone = gone
        while at < len(rows):
            self._room(at)
            slab = self._slabs[-1][: len(rows) - at]
            slab.copy_(rows[at : at + len(slab)])
            at += len(slab)

    def promise(self, count: int, load: Callable[[], Tensor], gone: Ints = NONE) -> None:
        """Like `restore` with what `load` gives, `count` rows, which is asked for when a row is first needed."""
        self._promised = (count, load)
        self.gone = gone

    def without(self, gone: Ints, count: int) -> None:
        """Let these of the first `count` rows be gone, ascending, those that already were included.

        The rows behind them move up, into new slabs; an interrupt leaves all as it was.
        """
        if len(gone) == len(self.gone):
            return
        self._here()
        places = np.flatnonzero(np.isin(self.numbers(count), gone, invert=True))
        starts: list[int] = []
        slabs: list[Tensor] = []
        while (end := starts[-1] + len(slabs[-1]) if slabs else 0) < len(places):
            size = min(self.first << len(slabs), self.largest)
            slabs.append(self._gathered(places[end : end + size], len(slabs), end, size))
            starts.append(end)
        same = sum(a is b for a, b in zip(slabs, self._slabs, strict=False))
        self._starts, self._slabs, self._shared, self.gone = starts, slabs, min(self._shared, same), gone

    def _gathered(self, places: Ints, slab: int, start: int, size: int) -> Tensor:
        """Slab number `slab` with the rows that lie at `places` now; itself if these are the rows it has."""
        if np.array_equal(places, np.arange(start, start + len(places))):
            return self._slabs[slab]
        with torch.inference_mode(False):
            new = torch.empty(size, self.columns, dtype=self.dtype)
        # Gathered slab by slab: one indexing for all rows that come from the same.
        sources = np.searchsorted(self._starts, places, "right") - 1
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            new[rows] = self._slabs[source][places[rows] - self._starts[source]]
        return new

    def fork(self) -> GrowableRows:
        """The same rows, sharing their memory."""
        self._here()
        other = GrowableRows(self.columns, self.dtype, self.first, self.largest)
        other._starts, other._slabs, other.gone = list(self._starts), list(self._slabs), self.gone
        self._shared = other._shared = len(self._slabs)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes allocated, or that will be when promised rows are read."""
        if self._promised is not None:
            return allocated_rows(self._promised[0], self.first, self.largest) * self.columns * self.dtype.itemsize
        return sum(slab.nbytes for slab in self._slabs)
