"""Where sealed blocks lie: records in slabs of host memory, one arena of slabs per layer.

Forks share slabs: a slab that two stores hold is never written again, so a fork costs no copy.
"""

from __future__ import annotations

import bisect

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.memory.codec import Codec

FIRST_SLAB, LARGEST_SLAB = 4, 64
"""Records per slab: doubling from the first to the largest, so that short texts cost little and long ones few slabs."""


class _Shelf:
    """The records of one layer."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.starts: list[int] = []
        self.slabs: list[Tensor] = []
        self.shared = 0

    def record(self, block: int) -> UInt8[Tensor, " bytes"]:
        at = bisect.bisect_right(self.starts, block) - 1
        return self.slabs[at][block - self.starts[at]]

    def room(self, block: int) -> UInt8[Tensor, " bytes"]:
        """The record to be written as number `block`: in a slab of our own, behind all earlier ones."""
        end = self.starts[-1] + len(self.slabs[-1]) if self.slabs else 0
        if block >= end or len(self.slabs) <= self.shared:
            if block < end:
                self.slabs[-1] = self.slabs[-1][: block - self.starts[-1]]
                end = block
            size = min(FIRST_SLAB << len(self.slabs), LARGEST_SLAB)
            with torch.inference_mode(False):
                self.slabs.append(torch.empty(size, self.codec.record_bytes, dtype=torch.uint8))
            self.starts.append(end)
        return self.record(block)

    def fork(self) -> _Shelf:
        other = _Shelf(self.codec)
        other.starts, other.slabs = list(self.starts), list(self.slabs)
        self.shared = other.shared = len(self.slabs)
        return other


class HostStore:
    """The blocks of one stream in host memory; block numbers count from 0 and are written in order."""

    def __init__(self, codecs: dict[int, Codec]) -> None:
        self._shelves = {layer: _Shelf(codec) for layer, codec in codecs.items()}

    def put(self, layer: int, block: int, k: Float[Tensor, "G L D"], v: Float[Tensor, "G L E"]) -> None:
        """Store a block; one that was stored under this number before, and not committed, is replaced."""
        shelf = self._shelves[layer]
        shelf.codec.encode(k.cpu(), v.cpu(), shelf.room(block))

    def get(self, layer: int, block: int) -> tuple[Float[Tensor, "G L D"], Float[Tensor, "G L E"]]:
        """Keys and values of a block, as they came out of the codec."""
        shelf = self._shelves[layer]
        return shelf.codec.decode(shelf.record(block))

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.nbytes for shelf in self._shelves.values() for slab in shelf.slabs)

    def fork(self) -> HostStore:
        """A store with the same blocks, sharing their memory."""
        other = HostStore({})
        other._shelves = {layer: shelf.fork() for layer, shelf in self._shelves.items()}
        return other

    def records(self, layer: int, blocks: int) -> UInt8[Tensor, "blocks bytes"]:
        """The first `blocks` records of a layer in one tensor, to be saved."""
        shelf = self._shelves[layer]
        if not blocks:
            return torch.empty(0, shelf.codec.record_bytes, dtype=torch.uint8)
        return torch.stack([shelf.record(n) for n in range(blocks)])

    def restore(self, layer: int, records: UInt8[Tensor, "blocks bytes"]) -> None:
        """Take saved records; for an empty store."""
        shelf = self._shelves[layer]
        for n, record in enumerate(records):
            shelf.room(n).copy_(record)
