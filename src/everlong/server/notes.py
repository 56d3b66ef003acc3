"""What the store notes of a session beside its state: its turns, and what its last answers drew on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from everlong.library import kept_text
from everlong.library.catalog import SessionRecord
from everlong.library.journal import JournalRecord
from everlong.library.library import Library
from everlong.library.rewind import Lengths

MOST_RECENT = 64
"""Turns of which it is known how they were read."""


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


class Notes:
    """The notes of the sessions of one store: those that came with a checkpoint, and those in the journals."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def noted(self, what: str, entry: SessionRecord, otherwise: Any) -> Any:
        """What was noted with the last checkpoint of a session."""
        noted = self._library.noted(f"{what} {entry.id}")
        return otherwise if noted is None else json.loads(noted)

    def turns(self, entry: SessionRecord) -> list[KnownTurn]:
        """The turns that the last checkpoint holds."""
        turns = [KnownTurn.of(turn) for turn in self.noted("turns", entry, [])]
        return [turn for turn in turns if turn.end <= entry.tokens]

    def all_turns(self, entry: SessionRecord) -> list[KnownTurn]:
        """The turns of a session that is not open, those in its journal included."""
        known = self.turns(entry)
        for record in self._journaled(entry):
            known += [KnownTurn.of(turn) for turn in record.note.get("turns", ())]
        return known

    def last(self, what: str, entry: SessionRecord) -> list[dict[str, Any]]:
        """What was noted with the last answer of a session that is not open."""
        noted = [record.note for record in self._journaled(entry)]
        last = [note[what] for note in noted if what in note]
        return last[-1] if last else self.noted(what, entry, [])

    def tokens(self, entry: SessionRecord) -> int:
        """Tokens of a session that is not open, those in its journal included."""
        return self._library.tokens(entry)

    def write(self, entry: SessionRecord, turns: Sequence[KnownTurn], facts: dict[str, Any]) -> None:
        """Take down the turns of a session, each with the tokens it ends at, and by their names other facts of it."""
        old, recent = turns[:-MOST_RECENT], turns[-MOST_RECENT:]
        self._library.note(f"turns {entry.id}", json.dumps([*(turn[:2] for turn in old), *recent]))
        for what, fact in facts.items():
            self._library.note(f"{what} {entry.id}", json.dumps(fact))

    def _journaled(self, entry: SessionRecord) -> Sequence[JournalRecord]:
        return kept_text.noted(self._library, entry)
