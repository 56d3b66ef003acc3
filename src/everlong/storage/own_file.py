"""A stream's own file of blocks: its free places, and the rows on their way there."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from everlong.storage.extent import Volume
from everlong.storage.write_behind import WriteBehind


class OwnFile:
    """The file of the last of a stream's volumes; `waiting` rows stay in memory until they are written."""

    def __init__(self) -> None:
        self.waiting: dict[int, Tensor] = {}
        self._free: list[int] = []
        self._writer: WriteBehind | None = None

    def use_all_but(self, used: Iterable[int]) -> None:
        """Take these places, and no others, as occupied."""
        used = set(used)
        end = max(used, default=-1) + 1
        self._free = [*sorted(set(range(end)).difference(used)), end]

    def write(self, volumes: list[Volume], block: int, row: Tensor, digests: Tensor) -> None:
        """Queue a row for the next free place, and let `volumes` say where it will be."""
        last = volumes[-1]
        place = self._free[0]
        self._writer = self._writer or WriteBehind(last.path)
        self._writer.write(block, place, row, digests)
        self._free[:] = self._free[1:] or [place + 1]
        # A place right behind the last makes the volume longer; one among rows that were given up begins another.
        follows = place == last.at + block - last.first
        if last.first == last.end or follows:
            volumes.pop()
        volumes.append(
            Volume(last.path, last.first, block + 1, last.at) if follows else Volume(last.path, block, block + 1, place)
        )

    def take_back(self) -> None:
        """Let go of the rows that have been written."""
        for block in self._writer.finished() if self._writer is not None else ():
            self.waiting.pop(block, None)

    def flush(self) -> None:
        """Wait until all that was queued is on the disk; SaveError if it cannot be."""
        if self._writer is not None:
            self._writer.flush()
            self.take_back()

    def close(self) -> None:
        """End the writer."""
        writer = self._writer
        self._writer = None
        if writer is not None:
            writer.close()
