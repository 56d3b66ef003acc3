"""Jobs with kept sessions: taken in line, opened with room for them, written, and released for the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from everlong.errors import EverlongError, one_line
from everlong.server.kept import KeptSessions
from everlong.server.open_sessions import OpenSession
from everlong.server.pace import Pace
from everlong.server.parking import Parking
from everlong.server.worker import Job, Ready, Ticket, Worker
from everlong.session.session import Session

logger = logging.getLogger(__name__)


class SessionJobs:
    """What is done with the kept sessions of a server, in its engine's thread."""

    def __init__(self, kept: KeptSessions, parking: Parking, worker: Worker, pace: Pace) -> None:
        self._kept = kept
        self._parking = parking
        self._worker = worker
        self._pace = pace

    def opened(self, name: str) -> Generator[Ready | None, None, OpenSession]:
        """A session that was taken, open, with room for it."""
        if name in self._kept.open:
            return (yield from self._kept.opened(name, lambda: self._pace.piece))
        with self._parking.expecting(self._kept.open.largest_bytes):
            yield from self._parking.make_room()
            return (yield from self._kept.opened(name, lambda: self._pace.piece))

    def with_session(self, name: str, work: Callable[[Session], Job], create: bool = False) -> Job:
        """A job with the session of this name, which must exist unless it is to be made; what it read is kept."""
        yield from self._kept.take(name)
        try:
            if not create:
                self._kept.entry(name)
            opened = yield from self.opened(name)
            result = yield from work(opened.session)
            yield from self._kept.checkpoint(name)
        except (EverlongError, OSError):
            self._kept.open.let_go(name)
            raise
        finally:
            self._kept.release(name)
        self._parking.trim()
        return result

    def with_store(self, names: Sequence[str], work: Callable[[], Any]) -> Job:
        """A job with the files of sessions, which are parked for it; `work` is done in another thread."""
        taken: list[str] = []
        try:
            # Always in the same order, so that no two jobs wait for each other.
            for name in sorted(set(names)):
                yield from self._kept.take(name)
                taken.append(name)
                yield from self._kept.park(name)
            return (yield from self._worker.beside(work))
        finally:
            for name in taken:
                self._kept.release(name)

    def keep_up(self, name: str) -> None:
        """Write the state of a session beside the engine's steps, if it is time to."""
        if self._kept.due(name):
            self._worker.add(Ticket(partial(self._checkpoint, name)))
        self._parking.trim()

    def _checkpoint(self, name: str) -> Job:
        yield from self._kept.take(name)
        try:
            if self._kept.due(name):
                yield from self._kept.checkpoint(name)
        except EverlongError as error:
            # What was acknowledged is in the journal; the next turn tries again.
            logger.warning("session %s: no checkpoint (%s)", name, one_line(error))
        finally:
            self._kept.release(name)
        self._parking.trim()
