"""Sessions kept in a folder, and all that is done with one of them: what lies where is said in catalog.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everlong.library import adopt as adopting
from everlong.library import archive, kept_facts, kept_text, rewind, sessions
from everlong.library import compact as compacting
from everlong.library import repair as repairing
from everlong.library.catalog import Catalog, SessionRecord
from everlong.library.compact import Compacted
from everlong.library.rewind import Lengths
from everlong.text.transcript import Source, TokenRange


class Library(Catalog):
    """The kept sessions of one folder."""

    @staticmethod
    def adopted(folder: str | Path | None = None) -> list[adopting.Adopted]:
        """Name the sessions of a folder again that its database does not name, or that has none; what became of them.

        InputError for a folder without sessions.
        """
        return adopting.adopt(folder)

    # The list of sessions.

    def create(
        self,
        name: str,
        model: str,
        fingerprint: dict[str, Any],
        method: dict[str, Any],
        origin: dict[str, str] | None = None,
    ) -> SessionRecord:
        """A new, empty session; `origin` says where its model comes from (`Loaded.origin`)."""
        return sessions.create(self, name, model, fingerprint, method, origin)

    def rename(self, name: str, new: str) -> None:
        """Give a session another name."""
        sessions.rename(self, name, new)

    def swap(self, name: str, by: str, aside: str) -> None:
        """Let the session `by` have the name of another, which is called `aside` from then on; at once."""
        sessions.swap(self, name, by, aside)

    def fork(self, name: str, new: str) -> SessionRecord:
        """A session that has read the same and shares its blocks; goes on by itself."""
        return sessions.fork(self, name, new)

    def delete(self, name: str) -> None:
        """Remove a session, and the files of blocks that no other session needs."""
        sessions.delete(self, name)

    def export(self, name: str, file: Path, overwrite: bool = False) -> None:
        """Write a session to one tar archive; wholly or not at all. SaveError for a file that exists."""
        archive.export(self, self.entry(name), file, overwrite)

    def take(self, file: Path, name: str | None = None) -> SessionRecord:
        """The session of an archive that `export` wrote, under its name or another."""
        return self.entry(archive.take(self, file, name))

    # The files of a session.

    def verify(self, entry: SessionRecord, repair: bool = False) -> dict[str, Any]:
        """Check every record, digest, id and state; with `repair` what is damaged is given up and the rest goes on.

        Damaged blocks are dropped, digests are made again from the keys of their blocks, and files that are missing are
        made anew; with a damaged state, or ids, the session goes back to the checkpoint before.
        DamagedError where that is damaged too: then the session is to be read again.
        """
        return repairing.verify(self, entry, repair)

    def compact(self, name: str) -> Compacted:
        """Rewrite the files of a session without dropped blocks; the bytes before and after."""
        return compacting.compact(self, name)

    def take_back(
        self, entry: SessionRecord, tokens: int, lengths: Sequence[tuple[int, Lengths]], note: dict[str, Any]
    ) -> None:
        """Let a session that nobody has open be what it was after so many tokens, where a turn began (rewind.py)."""
        rewind.take_back(self, entry, tokens, lengths, note)

    # What is kept of a session.

    def tokens(self, entry: SessionRecord) -> int:
        """Tokens that the session has read: those of its last checkpoint, and those that its journal has behind it."""
        return kept_text.tokens(self, entry)

    def sources(self, entry: SessionRecord) -> list[Source]:
        """What the session read, in order, with the marks of each source as far as its last checkpoint has them."""
        return kept_text.all_sources(self, entry)

    def dropped(self, entry: SessionRecord) -> list[int]:
        """Blocks that were found damaged and given up by `verify`."""
        return kept_text.dropped(self, entry)

    def forgotten(self, entry: SessionRecord) -> list[TokenRange]:
        """The spans that the session has forgotten."""
        return kept_text.forgotten(self, entry)

    def pins(self, entry: SessionRecord) -> list[dict[str, Any]]:
        """The spans that are pinned."""
        return kept_text.pins(self, entry)

    def note(self, name: str, value: str) -> None:
        """Note a fact down."""
        kept_facts.note(self, name, value)

    def noted(self, name: str) -> str | None:
        """A fact that was noted down."""
        return kept_facts.noted(self, name)

    def origin(self, entry: SessionRecord) -> dict[str, str]:
        """Where the model of a session comes from, as far as it is known: model, dtype, weights, memory."""
        return kept_facts.origin(self, entry)

    def noted_encoder(self, name: str) -> str | None:
        """The sentence encoder that the session of this name was read with."""
        return kept_facts.noted_encoder(self, self.entry(name))
