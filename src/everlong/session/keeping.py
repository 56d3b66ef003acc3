"""What a session's store has of it, and what is noted there between two checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from everlong.engine.recompute import make_runner
from everlong.engine.runner import State, StreamRunner
from everlong.engine.writing import WritingStream, cache_state
from everlong.errors import SessionError
from everlong.library.checkpoint import Checkpointer
from everlong.library.journal import Run
from everlong.methods.base import Method
from everlong.session.replay import replay
from everlong.storage.record_cache import RecordPool
from everlong.text.transcript import TokenRange


class Keeping:
    """How `session` is kept by `checkpointer`; one of None is kept nowhere."""

    def __init__(self, session: WritingStream, checkpointer: Checkpointer | None) -> None:
        self._session = session
        self._checkpointer = checkpointer

    @property
    def name(self) -> str | None:
        """The name under which `checkpoint` keeps the session; None for one that is not kept."""
        kept = self._checkpointer
        return kept.entry.name if kept is not None and kept.writable else None

    @property
    def tokens(self) -> int:
        """Tokens that the last checkpoint holds; 0 without a store."""
        return 0 if self._checkpointer is None else self._checkpointer.entry.tokens

    @property
    def forgotten(self) -> list[TokenRange]:
        """The spans that the session was told to forget."""
        kept = self._checkpointer
        return [] if kept is None else kept.library.forgotten(kept.entry)

    # Memory that sessions share.

    def share(self, pool: RecordPool) -> None:
        """Let what is read back from the disk stay in memory that many sessions share."""
        resident = None if self._checkpointer is None else self._checkpointer.store.resident
        if resident is not None:
            resident.pool = pool

    @property
    def shared_bytes(self) -> int:
        """Bytes of host memory that the session has of what it shares."""
        resident = None if self._checkpointer is None else self._checkpointer.store.resident
        return 0 if resident is None or resident.pool is None else resident.nbytes

    # The journal (docs/format.md).

    def note_reading(self, runs: Sequence[Run], note: dict[str, Any] | None = None) -> Callable[[], None]:
        """What makes `runs`, all that was read since, outlive a crash, at 4 bytes a token; to be called in any thread.

        Until it has ended nothing else may be done with the session. `Session.open` reads these tokens again, behind
        the last checkpoint; `notes` has what was noted with each. SessionError where other tokens than these were read.
        """
        if self._checkpointer is None:
            raise SessionError("note_reading: this session has no store; give Session a store")
        return self._checkpointer.note_reading(self._session, runs, note or {})

    @property
    def notes(self) -> list[tuple[int, dict[str, Any]]]:
        """What was noted with each reading since the last checkpoint, and the tokens of the session after it."""
        records = [] if self._checkpointer is None else self._checkpointer.journal.records
        return [(record.end, record.note) for record in records]

    def replay(self) -> Iterator[int]:
        """Read again what was noted since the last checkpoint; the tokens of the session after each piece."""
        kept = self._checkpointer
        for record in [] if kept is None else list(kept.journal.records):
            if kept is not None and record.first == self._session.seen_tokens:
                yield from replay(self._session, record.runs)
                self._session.conversing = record.conversing
                kept.journal.check(self._session.transcript.ids, record)


def kept_cache(checkpointer: Checkpointer) -> State:
    """The cache as the last checkpoint keeps it."""
    tensors, document = checkpointer.read_state()
    return cache_state(tensors, document["state"])


def kept_reader(model: Any, method: Method, chunk: int, checkpointer: Checkpointer | None) -> StreamRunner:
    """What reads a stream with `method`; stored blocks go where `checkpointer` has its store."""
    if checkpointer is None:
        return make_runner(model, method, chunk)
    return make_runner(model, method, chunk, lambda: checkpointer.store, checkpointer.recall_files)
