"""Sessions of the store that are open: what is known of each, and what all of them take in memory."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from everlong.server.conversations import memory_bytes
from everlong.server.notes import KnownTurn
from everlong.session.session import Session
from everlong.storage.record_cache import RecordPool

MOST_TURNS = 4096
"""Turns of a session by which its conversation is known again."""
MOST_REPLIES = 16
"""Answers of a session that a repeated request gets again."""
STATE_TOKENS = 1024
"""Tokens behind which a state is written: what a restart has to read again at most, and one turn."""


@dataclass(eq=False)
class OpenSession:
    """An open session of the store, and what was noted of its turns."""

    session: Session
    turns: list[KnownTurn] = field(default_factory=list)
    """The turns of its conversation."""
    citations: list[dict[str, Any]] = field(default_factory=list)
    """What its last answer can be checked against."""
    replies: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last answers of requests that can be made again, by their keys."""
    passages: list[dict[str, Any]] = field(default_factory=list)
    """What was read of the stored tokens for its last answer."""
    tools: str = ""
    """The digest of the tools that its conversation was begun with."""
    bytes: int = 0
    """What it took in memory when it was last used."""

    def add(self, note: dict[str, Any]) -> None:
        """Take down what was noted with a turn."""
        self.turns = [*self.turns, *(KnownTurn.of(turn) for turn in note.get("turns", ()))][-MOST_TURNS:]
        self.citations = note.get("citations", self.citations)
        self.passages = note.get("passages", self.passages)
        self.tools = note.get("tools", self.tools)
        self.replies |= note.get("replies", {})
        for key in list(self.replies)[:-MOST_REPLIES]:
            del self.replies[key]

    @property
    def unwritten_tokens(self) -> int:
        """Tokens that the last checkpoint does not hold."""
        return self.session.seen_tokens - self.session.keeping.tokens

    @property
    def due(self) -> bool:
        """Whether a checkpoint is to be made: of the first turn, and where a restart had much to read again.

        Two states are kept: that before the new one must be of before the last two turns, which may be taken back.
        """
        kept_tokens = self.session.keeping.tokens
        if not kept_tokens:
            return self.unwritten_tokens > 0
        early = self.turns[-2].begin if len(self.turns) > 1 else 0
        return self.unwritten_tokens >= STATE_TOKENS and kept_tokens <= early


class OpenSessions:
    """The open sessions by their names, those used last at the end."""

    def __init__(self) -> None:
        self.pool = RecordPool()
        """What sessions have read back from the disk."""
        self._open: dict[str, OpenSession] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._open))

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def __getitem__(self, name: str) -> OpenSession:
        return self._open[name]

    def get(self, name: str) -> OpenSession | None:
        """The session of this name, if it is open."""
        return self._open.get(name)

    def add(self, name: str, opened: OpenSession) -> None:
        """Take a session in as the one used last, or make it that."""
        self._open.pop(name, None)
        self._open[name] = opened

    def let_go(self, name: str) -> None:
        """Close a session, if it is open, without keeping what it has read since it was last kept."""
        opened = self._open.pop(name, None)
        if opened is not None:
            opened.session.close()

    def measure(self, name: str) -> None:
        """Take down what a session takes in memory, if it is open."""
        if name in self._open:
            self._open[name].bytes = memory_bytes(self._open[name].session)

    @property
    def bytes(self) -> int:
        """What they take in memory, with what they share."""
        return self.pool.nbytes + sum(opened.bytes for opened in self._open.values())

    @property
    def largest_bytes(self) -> int:
        """What the largest of them takes: what another may come to take."""
        return max((opened.bytes for opened in self._open.values()), default=0)

    def idlest(self, used: Container[str]) -> str | None:
        """The one that was used longest ago, but for those `used` now."""
        return next((name for name in self._open if name not in used), None)
