"""Records that were read back from the disk and stay in host memory for as long as there is room for them."""

from __future__ import annotations

import heapq
import math
import weakref
from collections import OrderedDict
from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor

SLAB_RECORDS = 16
DEFAULT_BYTES = 64 * 2**20
"""What stays resident where no budget says otherwise."""

Key = tuple[int, int]
Evict = Literal["lru", "score"]


class RecordPool:
    """Bytes that the caches of many stores share: where all are taken, the cache used longest ago gives some up."""

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit = limit
        self._caches: OrderedDict[int, weakref.ref[RecordCache]] = OrderedDict()
        """Those used last stand last."""

    @property
    def nbytes(self) -> int:
        """Bytes allocated by all."""
        return sum(cache.nbytes for cache in self._there())

    def use(self, cache: RecordCache) -> None:
        """Take note that a cache is in use."""
        self._caches[id(cache)] = weakref.ref(cache)
        self._caches.move_to_end(id(cache))

    def grants(self, cache: RecordCache, wanted: int) -> bool:
        """Whether a cache may take so many bytes more, for which others give way if they must."""
        free = self.limit - self.nbytes - wanted
        for other in self._there():
            while free < 0 and other is not cache and other.nbytes:
                free += other.give_up()
        return free >= 0

    def _there(self) -> list[RecordCache]:
        """The caches that are in use, those used longest ago first; the others are forgotten."""
        found = [(key, ref()) for key, ref in self._caches.items()]
        for key, cache in found:
            if cache is None:
                del self._caches[key]
        return [cache for _, cache in found if cache is not None]


class RecordCache:
    """Records by (layer, block) in a few large tensors of at most `limit` bytes, `per_layer` of a layer at most.

    Where there is no room, the record of least worth leaves: the least recently used ("lru"), or that of the lowest
    score: each use adds 1, and each choice of the layer leaves the share `decay` of it (after InfLLM, arXiv 2402.04617,
    which adds the attention received instead of 1). A record that was given out is good until the next call of `room`.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit = limit
        self.record_bytes = 0
        self.pool: RecordPool | None = None
        """What it shares its bytes with, if it does."""
        self.rule(None, "lru", 0.9)
        self._held: dict[int, int] = {}
        self._slots: dict[Key, int] = {}
        self._slabs: list[Tensor] = []
        self._free: list[int] = []
        self._worth: dict[Key, float] = {}
        self._queues: dict[int, list[tuple[float, int]]] = {}
        self._choices: dict[int, int] = {}
        self._uses = 0

    def rule(self, per_layer: int | None, evict: Evict, decay: float) -> None:
        """How many of a layer stay, and which of them leaves first; before anything is here."""
        self.per_layer = per_layer
        self.evict = evict
        self.decay = decay

    def fresh(self) -> RecordCache:
        """An empty one with the same rules."""
        other = RecordCache(self.limit)
        other.record_bytes = self.record_bytes
        other.pool = self.pool
        other.rule(self.per_layer, self.evict, self.decay)
        return other

    def __contains__(self, key: Key) -> bool:
        return key in self._slots

    def chosen(self, layer: int) -> None:
        """A layer has chosen anew: what it used before is worth less."""
        self._choices[layer] = self._choices.get(layer, 0) + 1
        if self.pool is not None and self._slabs:
            self.pool.use(self)

    def get(self, key: Key) -> Tensor | None:
        """The record, if it is here."""
        if key not in self._slots:
            return None
        self._use(key)
        return self._row(self._slots[key])

    def room(self, key: Key) -> Tensor | None:
        """Where to put a record that is not here yet; None if there is no room at all."""
        if self.per_layer is not None and self._held.get(key[0], 0) >= self.per_layer:
            self._leave([key[0]])
        if not self._free and self._may_grow(SLAB_RECORDS * self.record_bytes):
            with torch.inference_mode(False):
                self._slabs.append(torch.empty(SLAB_RECORDS, self.record_bytes, dtype=torch.uint8))
            end = SLAB_RECORDS * len(self._slabs)
            self._free = list(range(end - 1, end - 1 - SLAB_RECORDS, -1))
        if not self._free:
            self._leave(list(self._queues))
        if not self._free:
            return None
        self._slots[key] = self._free.pop()
        self._held[key[0]] = self._held.get(key[0], 0) + 1
        self._use(key)
        return self._row(self._slots[key])

    def _may_grow(self, wanted: int) -> bool:
        if self.nbytes + wanted > self.limit:
            return False
        if self.pool is None:
            return True
        self.pool.use(self)
        return self.pool.grants(self, wanted)

    def _use(self, key: Key) -> None:
        """Count a use. Worths are only compared, so a score stands as its logarithm, moved by the choices until now."""
        self._uses += 1
        worth = float(self._uses)
        if self.evict == "score":
            gone = self._choices.get(key[0], 0) * math.log(self.decay)
            old = self._worth.get(key)
            worth = (0.0 if old is None else math.log1p(math.exp(old + gone))) - gone
        self._worth[key] = worth
        queue = self._queues.setdefault(key[0], [])
        heapq.heappush(queue, (worth, key[1]))
        if len(queue) > 64 + 4 * self._held[key[0]]:  # most are of earlier uses
            queue[:] = [(w, block) for (layer, block), w in self._worth.items() if layer == key[0]]
            heapq.heapify(queue)

    def _leave(self, layers: list[int]) -> None:
        """Let the record of least worth of these layers leave, if there is one."""
        heads = [(*found, layer) for layer in layers if (found := self._head(layer)) is not None]
        if heads:
            _, block, layer = min(heads)
            self.discard((layer, block))

    def _head(self, layer: int) -> tuple[float, int] | None:
        queue = self._queues.get(layer, [])
        # A use pushes a new entry and leaves the old ones in the heap: those whose worth is not the present one.
        while queue and self._worth.get((layer, queue[0][1])) != queue[0][0]:
            heapq.heappop(queue)
        return queue[0] if queue else None

    def _row(self, slot: int) -> Tensor:
        return self._slabs[slot // SLAB_RECORDS][slot % SLAB_RECORDS]

    def discard(self, key: Key) -> None:
        """Forget a record."""
        if key in self._slots:
            self._free.append(self._slots.pop(key))
            self._held[key[0]] -= 1
            del self._worth[key]

    def without(self, gone: Collection[int]) -> None:
        """Forget the records of these blocks."""
        for key in [key for key in self._slots if key[1] in gone]:
            self.discard(key)

    def shrink(self, limit: int) -> None:
        """Keep to `limit` bytes from now on; the records of the newest slabs leave where there are too many."""
        self.limit = limit
        self._keep_to(limit)

    def give_up(self) -> int:
        """Let the records of the newest slab leave; its bytes."""
        freed = self._slabs[-1].nbytes
        self._keep_to(self.nbytes - freed)
        return freed

    def _keep_to(self, limit: int) -> None:
        if self.nbytes <= limit:
            return
        while self._slabs and self.nbytes > limit:
            self._slabs.pop()
        end = SLAB_RECORDS * len(self._slabs)
        for key in [key for key, slot in self._slots.items() if slot >= end]:
            self.discard(key)
        self._free = [slot for slot in self._free if slot < end]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.nbytes for slab in self._slabs)
