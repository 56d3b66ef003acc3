"""Sessions of the store made and opened: what a crash left in their journals is read again."""

from __future__ import annotations

from collections.abc import Callable, Generator

from everlong.errors import InputError
from everlong.library.library import Library
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.server.notes import Notes
from everlong.server.open_sessions import OpenSession
from everlong.server.worker import Beside, Ready
from everlong.session.session import Session
from everlong.storage.record_cache import RecordPool


class Opener:
    """Opens the sessions of one store for one model."""

    def __init__(
        self, loaded: Loaded, method: Method, library: Library, notes: Notes, chunk: int, beside: Beside
    ) -> None:
        self._loaded = loaded
        self._method = method
        self._library = library
        self._notes = notes
        self._chunk = chunk
        self._beside = beside

    def create(self, name: str) -> None:
        """Make an empty session, in this thread, whichever it is; InputError where the name is taken."""
        if self._library.find(name) is not None:
            raise InputError(f"session {name!r}: exists already; give another name")
        self._new(name).close()

    def open(self, name: str, pool: RecordPool, piece: Callable[[], int]) -> Generator[Ready | None, None, OpenSession]:
        """The session of this name, or a new one; its journal is read again in such pieces.

        Files are read and checked, and the caches filled, in another thread; whoever leaves meanwhile has it closed.
        """
        opened = yield from self._beside(lambda: self._begin(name), lambda begun: begun.session.close())
        opened.session.keeping.share(pool)
        try:
            yield from self._replay(opened.session, piece)
        except BaseException:
            opened.session.close()
            raise
        return opened

    def _new(self, name: str) -> Session:
        return Session(self._loaded, self._method, self._chunk, self._library.folder, name)

    def _begin(self, name: str) -> OpenSession:
        entry = self._library.find(name)
        if entry is None:
            return OpenSession(self._new(name))
        session = Session.restored(self._library.folder, name, self._loaded, self._chunk)
        noted = self._notes.noted
        opened = OpenSession(
            session,
            self._notes.turns(entry),
            citations=noted("citations", entry, []),
            replies=noted("replies", entry, {}),
            passages=noted("passages", entry, []),
            tools=noted("tools", entry, ""),
        )
        for _, note in session.keeping.notes:
            opened.add(note)
        return opened

    def _replay(self, session: Session, piece: Callable[[], int]) -> Generator[Ready | None, None, None]:
        session.chunk = min(self._chunk, piece())
        for _ in session.keeping.replay():
            yield None
        session.chunk = self._chunk
