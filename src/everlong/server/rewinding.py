"""The last turns of a session taken back, with all that was read since they began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from everlong.errors import CapabilityError
from everlong.library.catalog import SessionRecord
from everlong.library.library import Library
from everlong.library.rewind import Lengths
from everlong.server.notes import KnownTurn


class Rewinding(NamedTuple):
    """What is left of a session: its first tokens, and the turns in them."""

    tokens: int
    turns: Sequence[KnownTurn]

    @classmethod
    def by(cls, turns: int, known: Sequence[KnownTurn]) -> Rewinding:
        """What is left without the last so many of the known turns; CapabilityError where they are too many."""
        taken = [turn for turn in known if turn.lengths][-turns:]
        if len(taken) < turns:
            raise CapabilityError(f"turns={turns}: only {len(taken)} can be taken back here; ask for fewer")
        tokens = taken[0].begin
        return cls(tokens, [turn for turn in known if turn.end <= tokens])

    def write(self, library: Library, entry: SessionRecord) -> None:
        """Take back the rest, on the disk."""
        lengths: list[tuple[int, Lengths]] = [(turn.begin, turn.lengths) for turn in self.turns if turn.lengths]
        older = library.previous_tokens(entry)
        note = {"turns": [turn for turn in self.turns if turn.end > older], "citations": [], "passages": []}
        library.take_back(entry, self.tokens, lengths, note)
