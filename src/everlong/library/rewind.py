"""A kept session taken back to where it was before its last turns: behind its last checkpoint, or the one before."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from typing import Any

from everlong.errors import CapabilityError
from everlong.library import adopt as adopting
from everlong.library import kept_text, repair
from everlong.library.catalog import Catalog, SessionRecord
from everlong.library.journal import JOURNAL, Journal, JournalRecord, Kind, Run

Lengths = Sequence[tuple[Kind, int]]
"""How many tokens of a stream were read in which way, in order."""


def take_back(
    catalog: Catalog, entry: SessionRecord, tokens: int, lengths: Sequence[tuple[int, Lengths]], note: dict[str, Any]
) -> None:
    """Let a session that nobody has open be what it was after its first `tokens`, where a turn began.

    Where that is before its last checkpoint, what stands between the one before and there is to be read again:
    `lengths` says of each turn at which token it began, and how it was read; `note` is noted with it. CapabilityError,
    and nothing is changed, where no checkpoint is left or it is not known how to read on from it.
    """
    with catalog.locked(entry):
        entry = catalog.entry(entry.name)
        journal = Journal(catalog.place(entry) / JOURNAL, entry.tokens)
        if tokens >= entry.tokens:
            journal.cut(tokens)
            return
        older = repair.previous(catalog, entry)
        if older is None or older.tokens > tokens:
            raise CapabilityError(
                f"session {entry.name!r}: no state of before token {tokens} is kept any more; take back fewer turns, "
                "or fork a session before what may be taken back"
            )
        ids = kept_text.kept_transcript(catalog, entry, None).ids[:tokens]
        runs = _runs(older.tokens, ids, lengths)
        # Before the database names the older checkpoint this record is of what the newer one holds, and passed over.
        journal.replace(JournalRecord(older.tokens, runs, zlib.crc32(ids.tobytes()), note=note))
        with catalog.database() as db:
            repair.go_back(db, older)
    adopting.note_down(catalog, entry.name)


def _runs(first: int, ids: array[int], lengths: Sequence[tuple[int, Lengths]]) -> list[Run]:
    """The ids from `first` on, as they were read."""
    found = list[Run]()
    at = first
    for begin, turn in lengths:
        if begin == at < len(ids):
            for kind, length in turn:
                found.append((kind, ids[at : at + length].tolist()))
                at += length
    if at != len(ids):
        raise CapabilityError(
            f"rewind: what was read from token {first} to {len(ids)} is no run of turns; take back fewer of them"
        )
    return found
