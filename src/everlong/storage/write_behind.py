"""A thread that writes rows of blocks behind the computation, which waits only when the queue is full."""

from __future__ import annotations

import os
import queue
import threading
import zlib
from pathlib import Path

import torch
from torch import Tensor

from everlong.errors import SaveError

QUEUED_ROWS = 4
"""Rows that may wait for the disk; the computation waits when there are more."""


class WriteBehind:
    """Writes rows into a file, and their digests beside it, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: queue.Queue[tuple[int, int, Tensor, Tensor] | None] = queue.Queue(QUEUED_ROWS)
        self._done: list[int] = []
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="everlong-writer", daemon=True)
        self._thread.start()

    def write(self, block: int, place: int, row: Tensor, digests: Tensor) -> None:
        """Queue a row and its digests for a place; SaveError for what failed before."""
        self._raise()
        self._queue.put((block, place, row, digests))

    def finished(self) -> list[int]:
        """Blocks written since this was last asked."""
        # Exchanged while the thread may be adding to it: a row that ends just now can be missed, and then stays in
        # memory longer than it must; none is let go of before it is written.
        done = self._done
        self._done = []
        return done

    def flush(self) -> None:
        """Wait until all that was queued is on the disk; SaveError if it is not."""
        self._queue.join()
        self._raise()
        for path in (self.path, self.path.with_suffix(".digests")):
            if path.exists():
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def close(self) -> None:
        """End the thread, after what is queued."""
        self._queue.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise SaveError(
                f"{self.path}: {self._error.strerror or self._error}; nothing that was kept is lost: make room "
                "and read on from the last checkpoint"
            ) from self._error

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            # After an error the queue is emptied all the same: `put` and `join` would wait for ever.
            try:
                if self._error is None:
                    self._put(*item[1:])
                    self._done.append(item[0])
            except OSError as error:
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _put(self, place: int, row: Tensor, digests: Tensor) -> None:
        body = digests.view(torch.uint8).numpy().tobytes()
        body += zlib.crc32(body).to_bytes(4, "little")
        # The row first: digests can be made again from it, and are of no use without it.
        for path, data in ((self.path, row.numpy().data), (self.path.with_suffix(".digests"), memoryview(body))):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                _write_all(descriptor, data, place * data.nbytes)
            finally:
                os.close(descriptor)


def _write_all(descriptor: int, data: memoryview, at: int) -> None:
    data = data.cast("B")
    while data:
        written = os.pwrite(descriptor, data, at)
        data = data[written:]
        at = at + written
