"""Sessions that clients name: kept in the store, opened when they are asked for, one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from everlong.library.catalog import SessionRecord
from everlong.library.journal import Run
from everlong.library.library import Library
from everlong.library.naming import check_name
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.server.durability import Durability
from everlong.server.notes import Notes
from everlong.server.open_sessions import OpenSession, OpenSessions
from everlong.server.opening import Opener
from everlong.server.rewinding import Rewinding
from everlong.server.worker import Beside, Job, Ready
from everlong.session.session import Session
from everlong.text.transcript import ANSWER, PROMPT


class KeptSessions:
    """The sessions of one store. Only the engine's thread may use it; `beside` does in another what waits for disks.

    `create` may be done in any.
    """

    def __init__(self, loaded: Loaded, method: Method, store: Path, chunk: int, beside: Beside) -> None:
        self.library = Library(store)
        self.open = OpenSessions()
        self._beside = beside
        self._notes = Notes(self.library)
        self._opener = Opener(loaded, method, self.library, self._notes, chunk, beside)
        self._disk = Durability(self.library, self._notes, beside)
        self._busy: set[str] = set()

    def take(self, name: str) -> Generator[Ready | None, None, None]:
        """Wait in line for a session; `release` lets the next one have it."""
        check_name(name)
        while name in self._busy:
            yield lambda: name not in self._busy
        self._busy.add(name)

    def release(self, name: str) -> None:
        """Let the next in line have the session."""
        self._busy.discard(name)
        self.open.measure(name)

    def idlest(self) -> str | None:
        """The open session that was used longest ago, among those that nobody uses."""
        return self.open.idlest(self._busy)

    def create(self, name: str) -> SessionRecord:
        """Make an empty session."""
        self._opener.create(name)
        return self.entry(name)

    def opened(self, name: str, piece: Callable[[], int]) -> Generator[Ready | None, None, OpenSession]:
        """The session of this name, opened or made; what a crash left in its journal is read again in such pieces."""
        opened = self.open.get(name)
        if opened is None:
            opened = yield from self._opener.open(name, self.open.pool, piece)
        self.open.add(name, opened)
        self.open.measure(name)
        return opened

    def entry(self, name: str) -> SessionRecord:
        """What the store knows of the session; InputError where there is none."""
        return self.library.entry(name)

    def peek(self, name: str) -> Session | None:
        """The session of this name if it is open, to be looked at between two steps of whoever has it."""
        opened = self.open.get(name)
        return None if opened is None else opened.session

    def acknowledge(self, name: str, runs: Sequence[Run], note: dict[str, Any]) -> Job:
        """Put a turn on the disk: what was read in it, and what was noted."""
        yield from self._disk.acknowledge(self.open[name], runs, note)

    def settle(self, name: str) -> Job:
        """Let a checkpoint have what was read without being noted in the journal, such as a part of a document."""
        yield from self._disk.settle(self.open[name])

    def checkpoint(self, name: str) -> Job:
        """Write the state of a session, if it is open and has read something since."""
        opened = self.open.get(name)
        if opened is not None:
            yield from self._disk.checkpoint(opened)

    def due(self, name: str) -> bool:
        """Whether a checkpoint of a session is to be made."""
        return name in self.open and self.open[name].due

    def park(self, name: str) -> Job:
        """Keep a session and close it, if it is open."""
        yield from self.checkpoint(name)
        self.open.let_go(name)

    def close(self) -> None:
        """Park all, in this thread."""
        for name in self.open:
            self._disk.write(self.open[name])
            self.open.let_go(name)

    def rewind(self, name: str, turns: int) -> Job:
        """Take back the last turns of a session, with all that was read since they began; CapabilityError for more."""
        if name in self.open:
            yield from self.settle(name)
            self.open.let_go(name)
        entry = self.entry(name)
        rewinding = Rewinding.by(turns, self._notes.all_turns(entry))
        yield from self._beside(lambda: rewinding.write(self.library, entry))

    def citations(self, name: str) -> list[dict[str, Any]]:
        """What the last answer of a session can be checked against."""
        opened = self.open.get(name)
        return self._notes.last("citations", self.entry(name)) if opened is None else opened.citations

    def passages(self, name: str) -> list[dict[str, Any]]:
        """What was read of the stored tokens for the last answer of a session."""
        opened = self.open.get(name)
        return self._notes.last("passages", self.entry(name)) if opened is None else opened.passages

    def describe(self, entries: Sequence[SessionRecord]) -> Job:
        """Sessions as clients see them; what the disk says of them is read in another thread."""
        sessions = [self.peek(entry.name) for entry in entries]
        seen = [None if session is None else session.seen_tokens for session in sessions]
        busy = frozenset(self._busy)
        told = [partial(self._described, entry, tokens, busy) for entry, tokens in zip(entries, seen, strict=True)]
        return (yield from self._beside(lambda: [tell() for tell in told]))

    def _described(self, entry: SessionRecord, seen_tokens: int | None, busy: frozenset[str]) -> dict[str, Any]:
        """A session; `seen_tokens` of one that is open."""
        return {
            "id": entry.name,
            "object": "session",
            "created": int(entry.created),
            "updated": int(entry.updated),
            "model": entry.model,
            "method": entry.method["name"],
            "tokens": self._notes.tokens(entry) if seen_tokens is None else seen_tokens,
            "bytes": self.library.bytes(entry),
            "open": seen_tokens is not None,
            "busy": entry.name in busy,
            "sources": [
                {"name": source.name, "first_token": source.first, "done": source.done}
                for source in self.library.sources(entry)
                if source.name not in (PROMPT, ANSWER)
            ],
        }
