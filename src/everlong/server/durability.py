"""What an open session has read is put on the disk: each turn in its journal, now and then its whole state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from everlong.library.journal import Run
from everlong.library.library import Library
from everlong.server.notes import Notes
from everlong.server.open_sessions import OpenSession
from everlong.server.worker import Beside, Job


class Durability:
    """Writes journals and checkpoints; `beside` does in another thread what waits for disks."""

    def __init__(self, library: Library, notes: Notes, beside: Beside) -> None:
        self._library = library
        self._notes = notes
        self._beside = beside

    def acknowledge(self, opened: OpenSession, runs: Sequence[Run], note: dict[str, Any]) -> Job:
        """Put a turn on the disk: what was read in it, and what was noted."""
        yield from self._beside(opened.session.keeping.note_reading(runs, note))
        opened.add(note)

    def settle(self, opened: OpenSession) -> Job:
        """Let a checkpoint have what was read without being noted in the journal, such as a part of a document."""
        session = opened.session
        noted = session.keeping.notes[-1][0] if session.keeping.notes else session.keeping.tokens
        if noted != session.seen_tokens:
            yield from self.checkpoint(opened)

    def checkpoint(self, opened: OpenSession) -> Job:
        """Write the state of a session, if it has read something since."""
        if opened.unwritten_tokens:
            # What another thread is to write is computed in this one.
            _ = opened.session.prediction
            yield from self._beside(partial(self.write, opened))

    def write(self, opened: OpenSession) -> None:
        """Make a checkpoint with what is known of the turns, in this thread, if the session has read something since.

        That is noted down first, each turn with the tokens it ends at: one that the checkpoint did not come to is
        passed over when the session is next opened.
        """
        if not opened.unwritten_tokens:
            return
        entry = self._library.entry(opened.session.keeping.name or "")
        facts = {
            "citations": opened.citations,
            "passages": opened.passages,
            "replies": opened.replies,
            "tools": opened.tools,
        }
        self._notes.write(entry, opened.turns, facts)
        opened.session.checkpoint()
