"""Records that were read back from the disk and stay in host memory for as long as there is room for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import torch
from torch import Tensor

SLAB_RECORDS = 16
DEFAULT_BYTES = 64 * 2**20
"""What stays resident where no budget says otherwise."""

Key = tuple[int, int]


class Resident:
    """Records by (layer, block) in a few large tensors of at most `limit` bytes; the least recently used leaves first.

    A record that was given out is good until the next call of `room`.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit, self.record_bytes = limit, 0
        self._slots: OrderedDict[Key, int] = OrderedDict()
        self._slabs: list[Tensor] = []
        self._free: list[int] = []

    def __contains__(self, key: Key) -> bool:
        return key in self._slots

    def get(self, key: Key) -> Tensor | None:
        """The record, if it is here."""
        if key not in self._slots:
            return None
        self._slots.move_to_end(key)
        return self._row(self._slots[key])

    def room(self, key: Key) -> Tensor | None:
        """Where to put a record that is not here yet; None if there is no room at all."""
        if not self._free and self.nbytes + SLAB_RECORDS * self.record_bytes <= self.limit:
            with torch.inference_mode(False):
                self._slabs.append(torch.empty(SLAB_RECORDS, self.record_bytes, dtype=torch.uint8))
            end = SLAB_RECORDS * len(self._slabs)
            self._free = list(range(end - 1, end - 1 - SLAB_RECORDS, -1))
        if not self._free and self._slots:
            self._free.append(self._slots.popitem(last=False)[1])
        if not self._free:
            return None
        self._slots[key] = self._free.pop()
        return self._row(self._slots[key])

    def _row(self, slot: int) -> Tensor:
        return self._slabs[slot // SLAB_RECORDS][slot % SLAB_RECORDS]

    def discard(self, key: Key) -> None:
        """Forget a record."""
        if key in self._slots:
            self._free.append(self._slots.pop(key))

    def without(self, gone: Collection[int]) -> None:
        """Forget the records of these blocks."""
        for key in [key for key in self._slots if key[1] in gone]:
            self.discard(key)

    def shrink(self, limit: int) -> None:
        """Keep to `limit` bytes from now on; the records of the newest slabs leave where there are too many."""
        self.limit = limit
        if self.nbytes <= limit:
            return
        while self._slabs and self.nbytes > limit:
            self._slabs.pop()
        end = SLAB_RECORDS * len(self._slabs)
        for key in [key for key, slot in self._slots.items() if slot >= end]:
            del self._slots[key]
        self._free = [slot for slot in self._free if slot < end]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.nbytes for slab in self._slabs)
