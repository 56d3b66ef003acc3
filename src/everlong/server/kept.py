"""Sessions that clients name: kept in the store, opened when they are asked for, one request at a time."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everlong.errors import InputError
from everlong.library.catalog import SessionRecord
from everlong.library.library import Library
from everlong.library.naming import check_name
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.server.conversations import memory_bytes
from everlong.server.worker import Ready
from everlong.session.session import Session
from everlong.text.transcript import ANSWER, PROMPT, Citation

MOST_TURNS = 4096
"""Turns of a session by which its conversation is known again."""


class KeptSessions:
    """The sessions of one store. Only the engine's thread may use it."""

    def __init__(self, loaded: Loaded, method: Method, store: Path, chunk: int) -> None:
        self.library = Library(store)
        self._loaded = loaded
        self._method = method
        self._chunk = chunk
        self._open: dict[str, Session] = {}
        """Those used last stand last."""
        self._busy: set[str] = set()

    @property
    def open_count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def bytes(self) -> int:
        """What the open ones take in memory."""
        return sum(map(memory_bytes, self._open.values()))

    def take(self, name: str) -> Generator[Ready | None, None, None]:
        """Wait in line for a session; `release` lets the next one have it."""
        check_name(name)
        while name in self._busy:
            yield lambda: name not in self._busy
        self._busy.add(name)

    def release(self, name: str) -> None:
        """Let the next in line have the session."""
        self._busy.discard(name)

    def session(self, name: str) -> Session:
        """The session of this name, opened or made."""
        session = self._open.pop(name, None)
        if session is None:
            known = self.library.find(name) is not None
            folder = self.library.folder
            session = (
                Session.open(folder, name, self._loaded, self._chunk)
                if known
                else Session(self._loaded, self._method, self._chunk, folder, name)
            )
        self._open[name] = session
        return session

    def entry(self, name: str) -> SessionRecord:
        """What the store knows of the session; InputError where there is none."""
        return self.library.entry(name)

    def peek(self, name: str) -> Session | None:
        """The session of this name if it is open, to be looked at between two steps of whoever has it."""
        return self._open.get(name)

    def let_go(self, name: str) -> None:
        """Close a session without keeping what it has read since its last checkpoint."""
        session = self._open.pop(name, None)
        if session is not None:
            session.close()

    def park(self, name: str) -> None:
        """Keep a session and close it, if it is open."""
        session = self._open.get(name)
        if session is not None:
            if session.seen_tokens != session.kept_tokens:
                session.checkpoint()
            self.let_go(name)

    def trim(self, most: int) -> None:
        """Park those used longest ago that nobody waits for, until the open ones take at most so many bytes."""
        for name in list(self._open):
            if self.bytes <= most:
                return
            if name not in self._busy:
                self.park(name)

    def close(self) -> None:
        """Park all."""
        for name in list(self._open):
            self.park(name)

    def turns(self, name: str) -> list[tuple[int, str]]:
        """(tokens, hash) of each turn of its conversation, as far as the session still holds it."""
        entry = self.library.find(name)
        noted = None if entry is None else self.library.noted(f"turns {entry.id}")
        seen = 0 if entry is None else entry.tokens
        return [] if noted is None else [(n, chain) for n, chain in json.loads(noted) if n <= seen]

    def keep(self, name: str, turns: Sequence[tuple[int, str]]) -> None:
        """Keep a session with the turns of its conversation.

        They are noted down first, each with the tokens it ends at: one that the checkpoint did not come to is passed
        over when the session is next opened.
        """
        self.library.note(f"turns {self.library.entry(name).id}", json.dumps(list(turns[-MOST_TURNS:])))
        self._open[name].checkpoint()

    def cite(self, name: str, citations: Sequence[Citation]) -> None:
        """Note down what the last answer of a session can be checked against."""
        entry = self.library.entry(name)
        self.library.note(f"citations {entry.id}", json.dumps([asdict(cited) for cited in citations]))

    def citations(self, name: str) -> list[dict[str, Any]]:
        """What the last answer of a session can be checked against."""
        noted = self.library.noted(f"citations {self.library.entry(name).id}")
        return [] if noted is None else json.loads(noted)

    def note_passages(self, name: str, passages: Sequence[dict[str, Any]]) -> None:
        """Note down what was read of the stored tokens for the last answer of a session."""
        self.library.note(f"passages {self.library.entry(name).id}", json.dumps(list(passages)))

    def passages(self, name: str) -> list[dict[str, Any]]:
        """What was read of the stored tokens for the last answer of a session."""
        noted = self.library.noted(f"passages {self.library.entry(name).id}")
        return [] if noted is None else json.loads(noted)

    def create(self, name: str) -> SessionRecord:
        """Make an empty session."""
        if self.library.find(name) is not None:
            raise InputError(f"session {name!r}: exists already; give another name")
        self.session(name)
        self.park(name)
        return self.entry(name)

    def describe(self, entry: SessionRecord) -> dict[str, Any]:
        """A session as clients see it."""
        session = self._open.get(entry.name)
        return {
            "id": entry.name,
            "object": "session",
            "created": int(entry.created),
            "updated": int(entry.updated),
            "model": entry.model,
            "method": entry.method["name"],
            "tokens": entry.tokens if session is None else session.seen_tokens,
            "bytes": self.library.bytes(entry),
            "open": session is not None,
            "busy": entry.name in self._busy,
            "sources": [
                {"name": source.name, "first_token": source.first, "done": source.done}
                for source in self.library.sources(entry)
                if source.name not in (PROMPT, ANSWER)
            ],
        }
