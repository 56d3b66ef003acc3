"""Open sessions within the memory they may take: those used longest ago give way, those of the store written first."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from everlong.errors import EverlongError, one_line
from everlong.server.conversations import Conversations
from everlong.server.kept import KeptSessions
from everlong.server.worker import Job, Ticket, Worker

logger = logging.getLogger(__name__)


class Parking:
    """Closes sessions until all that are open together take at most `most_bytes`."""

    def __init__(self, most_bytes: int, conversations: Conversations, kept: KeptSessions, worker: Worker) -> None:
        self.used_bytes = 0
        """What open sessions took in memory when it was last looked at."""
        self._most_bytes = most_bytes
        self._conversations = conversations
        self._kept = kept
        self._worker = worker
        self._parking = False
        self._expected_bytes = 0
        """What those may come to take that are being opened."""

    @contextmanager
    def expecting(self, expected_bytes: int) -> Iterator[None]:
        """Keep room for a session while it is opened."""
        self._expected_bytes += expected_bytes
        try:
            yield
        finally:
            self._expected_bytes -= expected_bytes

    def trim(self) -> None:
        """Close what was used longest ago, until all open sessions fit the memory they may take."""
        self._conversations.trim(max(0, self._most_bytes - self._kept.open.bytes - self._expected_bytes))
        if self._over and not self._parking:
            self._parking = True
            self._worker.add(Ticket(self._trimmed))

    def make_room(self) -> Job:
        """Park those used longest ago, each written beside the engine's steps, until all that is expected fits."""
        if self._over:
            self._conversations.trim(max(0, self._most_bytes - self._kept.open.bytes - self._expected_bytes))
        while self._over and (name := self._kept.idlest()) is not None:
            yield from self._kept.take(name)
            try:
                yield from self._kept.park(name)
            except EverlongError as error:
                logger.warning("session %s: cannot be parked (%s)", name, one_line(error))
                return
            finally:
                self._kept.release(name)

    def _trimmed(self) -> Job:
        try:
            yield from self.make_room()
        finally:
            self._parking = False

    @property
    def _over(self) -> bool:
        self.used_bytes = self._conversations.bytes + self._kept.open.bytes
        return self.used_bytes + self._expected_bytes > self._most_bytes


def half_of_memory() -> int:
    """Half of what memory the machine has, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
