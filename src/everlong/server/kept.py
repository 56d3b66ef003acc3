"""Sessions that clients name: kept in the store, opened when they are asked for, one request at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from everlong.errors import CapabilityError, InputError
from everlong.library.catalog import SessionRecord
from everlong.library.journal import JOURNAL, Journal, Run
from everlong.library.library import Library
from everlong.library.naming import check_name
from everlong.library.rewind import Lengths
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.server.conversations import memory_bytes
from everlong.server.worker import Job, Ready
from everlong.session.session import Session
from everlong.storage.record_cache import RecordPool
from everlong.text.transcript import ANSWER, PROMPT

MOST_TURNS = 4096
"""Turns of a session by which its conversation is known again."""
MOST_RECENT = 64
"""Turns of which it is known how they were read."""
MOST_REPLIES = 16
"""Answers of a session that a repeated request gets again."""
STATE_TOKENS = 1024
"""Tokens behind which a state is written: what a restart has to read again at most, and one turn."""


class KnownTurn(NamedTuple):
    """A turn of a conversation: the tokens of the session after it, the hash of all messages up to it, how it was read.

    The first of a session stands for the system prompt alone, and has no tokens.
    """

    end: int
    chain: str
    begin: int = -1
    lengths: Lengths = ()

    @classmethod
    def of(cls, noted: Sequence[Any]) -> KnownTurn:
        """A turn that was noted down as JSON."""
        end, chain, begin, lengths = noted if len(noted) == 4 else (*noted, -1, ())
        return cls(end, chain, begin, [(kind, length) for kind, length in lengths])


@dataclass(eq=False)
class KeptSession:
    """An open session of the store, and what was noted of its turns."""

    session: Session
    turns: list[KnownTurn]
    """The turns of its conversation."""
    citations: list[dict[str, Any]]
    """What its last answer can be checked against."""
    replies: dict[str, dict[str, Any]]
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
        return self.session.seen_tokens - self.session.kept_tokens

    @property
    def due(self) -> bool:
        """Whether a checkpoint is to be made: of the first turn, and where a restart had much to read again.

        Two states are kept: that before the new one must be of before the last two turns, which may be taken back.
        """
        kept_tokens = self.session.kept_tokens
        if not kept_tokens:
            return self.unwritten_tokens > 0
        early = self.turns[-2].begin if len(self.turns) > 1 else 0
        return self.unwritten_tokens >= STATE_TOKENS and kept_tokens <= early


class KeptSessions:
    """The sessions of one store. Only the engine's thread may use it; `beside` does in another what waits for disks."""

    def __init__(
        self, loaded: Loaded, method: Method, store: Path, chunk: int, beside: Callable[[Callable[[], Any]], Job]
    ) -> None:
        self.library = Library(store)
        self._loaded = loaded
        self._method = method
        self._chunk = chunk
        self._beside = beside
        self.pool = RecordPool()
        """What sessions have read back from the disk."""
        self._open: dict[str, KeptSession] = {}
        """Those used last stand last."""
        self._busy: set[str] = set()

    @property
    def open_count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def bytes(self) -> int:
        """What the open ones take in memory, with what they share."""
        return self.pool.nbytes + sum(kept.bytes for kept in self._open.values())

    @property
    def largest_bytes(self) -> int:
        """What the largest of the open ones takes: what another may come to take."""
        return max((kept.bytes for kept in self._open.values()), default=0)

    def is_open(self, name: str) -> bool:
        """Whether a session is open."""
        return name in self._open

    def take(self, name: str) -> Generator[Ready | None, None, None]:
        """Wait in line for a session; `release` lets the next one have it."""
        check_name(name)
        while name in self._busy:
            yield lambda: name not in self._busy
        self._busy.add(name)

    def release(self, name: str) -> None:
        """Let the next in line have the session."""
        self._busy.discard(name)
        if name in self._open:
            self._open[name].bytes = memory_bytes(self._open[name].session)

    def opened(self, name: str, piece: Callable[[], int]) -> Generator[Ready | None, None, KeptSession]:
        """The session of this name, opened or made; what a crash left in its journal is read again in such pieces."""
        kept = self._open.pop(name, None)
        if kept is None:
            kept = self._begin(name)
            kept.session.share(self.pool)
            try:
                yield from self._replay(kept.session, piece)
            except BaseException:
                kept.session.close()
                raise
        self._open[name] = kept
        return kept

    def _begin(self, name: str) -> KeptSession:
        entry = self.library.find(name)
        folder = self.library.folder
        if entry is None:
            return KeptSession(Session(self._loaded, self._method, self._chunk, folder, name), [], [], {})
        session = Session.restored(folder, name, self._loaded, self._chunk)
        kept = KeptSession(session, self._turns(entry), self._noted("citations", entry, []), {})
        kept.replies = self._noted("replies", entry, {})
        kept.passages = self._noted("passages", entry, [])
        kept.tools = self._noted("tools", entry, "")
        for _, note in session.notes:
            kept.add(note)
        return kept

    def _replay(self, session: Session, piece: Callable[[], int]) -> Generator[Ready | None, None, None]:
        session.chunk = min(self._chunk, piece())
        for _ in session.replay():
            yield None
        session.chunk = self._chunk

    def entry(self, name: str) -> SessionRecord:
        """What the store knows of the session; InputError where there is none."""
        return self.library.entry(name)

    def peek(self, name: str) -> Session | None:
        """The session of this name if it is open, to be looked at between two steps of whoever has it."""
        kept = self._open.get(name)
        return None if kept is None else kept.session

    def let_go(self, name: str) -> None:
        """Close a session without keeping what it has read since it was last kept."""
        kept = self._open.pop(name, None)
        if kept is not None:
            kept.session.close()

    def acknowledge(self, name: str, runs: Sequence[Run], note: dict[str, Any]) -> Job:
        """Put a turn on the disk: what was read in it, and what was noted."""
        kept = self._open[name]
        yield from self._beside(kept.session.note_reading(runs, note))
        kept.add(note)

    def settle(self, name: str) -> Job:
        """Let a checkpoint have what was read without being noted in the journal, such as a part of a document."""
        session = self._open[name].session
        noted = session.notes[-1][0] if session.notes else session.kept_tokens
        if noted != session.seen_tokens:
            yield from self.checkpoint(name)

    def citations(self, name: str) -> list[dict[str, Any]]:
        """What the last answer of a session can be checked against."""
        kept = self._open.get(name)
        return self._last(name, "citations") if kept is None else kept.citations

    def passages(self, name: str) -> list[dict[str, Any]]:
        """What was read of the stored tokens for the last answer of a session."""
        kept = self._open.get(name)
        return self._last(name, "passages") if kept is None else kept.passages

    def _last(self, name: str, what: str) -> list[dict[str, Any]]:
        """What was noted with the last answer of a session that is not open."""
        entry = self.library.entry(name)
        noted = [record.note for record in Journal(self.library.place(entry) / JOURNAL, entry.tokens).records]
        last = [note[what] for note in noted if what in note]
        return last[-1] if last else self._noted(what, entry, [])

    def checkpoint(self, name: str) -> Job:
        """Write the state of a session, if it has read something since."""
        kept = self._open.get(name)
        if kept is not None and kept.unwritten_tokens:
            # What another thread is to write is computed in this one.
            _ = kept.session.prediction
            yield from self._beside(partial(self._write, kept))

    def due(self, name: str) -> bool:
        """Whether a checkpoint of a session is to be made."""
        return name in self._open and self._open[name].due

    def park(self, name: str) -> Job:
        """Keep a session and close it, if it is open."""
        yield from self.checkpoint(name)
        self.let_go(name)

    def idlest(self) -> str | None:
        """The open session that was used longest ago, among those that nobody uses."""
        return next((name for name in self._open if name not in self._busy), None)

    def close(self) -> None:
        """Park all, in this thread."""
        for name, kept in list(self._open.items()):
            if kept.unwritten_tokens:
                self._write(kept)
            self.let_go(name)

    def _write(self, kept: KeptSession) -> None:
        """Make a checkpoint with what is known of the turns.

        That is noted down first, each turn with the tokens it ends at: one that the checkpoint did not come to is
        passed over when the session is next opened.
        """
        entry = self.library.entry(kept.session.kept_name or "")
        old, recent = kept.turns[:-MOST_RECENT], kept.turns[-MOST_RECENT:]
        self.library.note(f"turns {entry.id}", json.dumps([*(turn[:2] for turn in old), *recent]))
        self.library.note(f"citations {entry.id}", json.dumps(kept.citations))
        self.library.note(f"passages {entry.id}", json.dumps(kept.passages))
        self.library.note(f"replies {entry.id}", json.dumps(kept.replies))
        self.library.note(f"tools {entry.id}", json.dumps(kept.tools))
        kept.session.checkpoint()

    def rewind(self, name: str, turns: int) -> Job:
        """Take back the last turns of a session, with all that was read since they began; CapabilityError for more."""
        if name in self._open:
            yield from self.settle(name)
            self.let_go(name)
        entry = self.library.entry(name)
        known = self._turns(entry)
        for record in Journal(self.library.place(entry) / JOURNAL, entry.tokens).records:
            known += [KnownTurn.of(turn) for turn in record.note.get("turns", ())]
        taken = [turn for turn in known if turn.lengths][-turns:]
        if len(taken) < turns:
            raise CapabilityError(f"turns={turns}: only {len(taken)} can be taken back here; ask for fewer")
        tokens = taken[0].begin
        left = [turn for turn in known if turn.end <= tokens]
        lengths = [(turn.begin, turn.lengths) for turn in left if turn.lengths]
        yield from self._beside(lambda: self._take_back(entry, tokens, lengths, left))

    def _take_back(
        self, entry: SessionRecord, tokens: int, lengths: Sequence[tuple[int, Lengths]], left: Sequence[KnownTurn]
    ) -> None:
        older = self.library.previous_tokens(entry)
        note = {"turns": [turn for turn in left if turn.end > older], "citations": [], "passages": []}
        self.library.take_back(entry, tokens, lengths, note)

    def _turns(self, entry: SessionRecord) -> list[KnownTurn]:
        turns = [KnownTurn.of(turn) for turn in self._noted("turns", entry, [])]
        return [turn for turn in turns if turn.end <= entry.tokens]

    def _noted(self, what: str, entry: SessionRecord, otherwise: Any) -> Any:
        noted = self.library.noted(f"{what} {entry.id}")
        return otherwise if noted is None else json.loads(noted)

    def create(self, name: str) -> SessionRecord:
        """Make an empty session."""
        if self.library.find(name) is not None:
            raise InputError(f"session {name!r}: exists already; give another name")
        Session(self._loaded, self._method, self._chunk, self.library.folder, name).close()
        return self.entry(name)

    def describe(self, entry: SessionRecord) -> dict[str, Any]:
        """A session as clients see it."""
        kept = self._open.get(entry.name)
        return {
            "id": entry.name,
            "object": "session",
            "created": int(entry.created),
            "updated": int(entry.updated),
            "model": entry.model,
            "method": entry.method["name"],
            "tokens": self._tokens(entry) if kept is None else kept.session.seen_tokens,
            "bytes": self.library.bytes(entry),
            "open": kept is not None,
            "busy": entry.name in self._busy,
            "sources": [
                {"name": source.name, "first_token": source.first, "done": source.done}
                for source in self.library.sources(entry)
                if source.name not in (PROMPT, ANSWER)
            ],
        }

    def _tokens(self, entry: SessionRecord) -> int:
        """Tokens of a session that is not open, those in its journal included."""
        noted = Journal(self.library.place(entry) / JOURNAL, entry.tokens).records
        return noted[-1].end if noted else entry.tokens
