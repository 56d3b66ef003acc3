"""The last ids of a stream, in a ring of fixed size: no list grows with the stream."""

from __future__ import annotations

import torch
from torch import Tensor


class TokenHistory:
    """The last `size` ids; `seen` counts all that were added."""

    def __init__(self, size: int) -> None:
        self.seen = 0
        self._ring = torch.zeros(size, dtype=torch.int64)

    @property
    def size(self) -> int:
        """How many ids are kept at most."""
        return len(self._ring)

    def add(self, ids: Tensor) -> None:
        """Take in `ids` [n], int64 on the CPU, the newest last."""
        kept = ids[-self.size :]
        first = self.seen + len(ids) - len(kept)
        at = first % self.size
        end = at + len(kept)
        if end <= self.size:
            self._ring[at:end] = kept
        else:
            self._ring[torch.arange(at, end) % self.size] = kept
        self.seen += len(ids)

    def ids(self, count: int | None = None) -> Tensor:
        """The last `count` ids (default: all that are kept), int64 [n], the oldest first."""
        held = min(self.seen, self.size)
        count = held if count is None else min(count, held)
        return self._ring[torch.arange(self.seen - count, self.seen) % self.size]

    def forget(self, first: int, end: int, filler: int) -> None:
        """Put `filler` in the place of the ids number `first` .. `end - 1` of the stream."""
        kept = torch.arange(max(first, self.seen - self.size), max(end, self.seen - self.size))
        self._ring[kept % self.size] = filler

    def copy(self) -> TokenHistory:
        """An independent copy."""
        return TokenHistory.restored(self.size, self.ids(), self.seen)

    @classmethod
    def restored(cls, size: int, ids: Tensor, seen: int) -> TokenHistory:
        """The ring of a stream of `seen` ids that ends with `ids`."""
        ring = cls(size)
        ring.seen = seen - len(ids)
        ring.add(ids)
        return ring
