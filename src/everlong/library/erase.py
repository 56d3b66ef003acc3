"""Bytes of what was forgotten, overwritten on the disk; what a crash cut off is done again by the next writer."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from everlong.library import recall_files
from everlong.library.catalog import CATALOG, Catalog, SessionRecord
from everlong.library.journal import JOURNAL
from everlong.library.sentence_index import forget_in_folder, is_meaning_file
from everlong.storage.row_file import overwrite, wipe
from everlong.text.transcript import TokenRange


def erase(catalog: Catalog, entry: SessionRecord) -> None:
    """Overwrite ids and blocks that the session has forgotten, where that was not done and no session needs them."""
    with catalog.database() as db:
        spans = db.execute(
            "SELECT first, end, filler FROM forgotten WHERE session = ? AND NOT wiped", (entry.id,)
        ).fetchall()
    if not spans:
        return
    for first, end, filler in spans:
        word = filler.to_bytes(4, "little")
        overwrite(catalog.place(entry) / "ids", [(4 * first, 4 * (end - first))], word)
    wipe_files(catalog, (v.path for v in catalog.volumes(entry)))
    recall_files.wipe(catalog, entry)
    forget_in_folder(catalog.place(entry), [TokenRange(first, end) for first, end, _ in spans])
    remove_states(catalog, entry)
    # Last: after a crash all of it is done again, which changes nothing that was done.
    with catalog.database() as db:
        db.execute("UPDATE forgotten SET wiped = 1 WHERE session = ?", (entry.id,))


def remove_states(catalog: Catalog, entry: SessionRecord) -> None:
    """Overwrite and remove the states of a session that the database does not name."""
    named = {entry.state, previous_state(catalog, entry)}
    for path in catalog.place(entry).glob("state-*"):
        if path.name not in named:
            overwrite(path, [(0, path.stat().st_size)])
            with contextlib.suppress(OSError):
                path.unlink()


def tidy(catalog: Catalog, entry: SessionRecord) -> None:
    """Remove what a killed process left half-written among the session's own files; for who holds the lock."""
    for path in catalog.place(entry).iterdir():
        known = path.name in ("ids", "lock", CATALOG, JOURNAL, entry.state, previous_state(catalog, entry))
        if not known and not is_meaning_file(path.name):
            path.unlink(missing_ok=True)
    if entry.state is None:
        # Rows that no checkpoint ever named; an older version may have written wider digests than will follow.
        own = catalog.volumes(entry)[-1]
        own.path.unlink(missing_ok=True)
        own.digests.unlink(missing_ok=True)


def previous_state(catalog: Catalog, entry: SessionRecord) -> str | None:
    """The state of the checkpoint before the last, if it is kept."""
    with catalog.database() as db:
        row = db.execute("SELECT state FROM states WHERE session = ?", (entry.id,)).fetchone()
    return None if row is None else row[0]


def wipe_files(catalog: Catalog, paths: Iterable[Path]) -> None:
    """Overwrite the rows of these files that a session has dropped and none needs."""
    for path in set(paths):
        with catalog.database() as db:
            places, row_bytes = unneeded(db, path.name)
        wipe(path, row_bytes, places)


def unneeded(db: sqlite3.Connection, file: str) -> tuple[set[int], int]:
    """The rows of a file that some session dropped and no session needs, and the bytes of a row."""
    # Places in the file, not numbers of blocks: two sessions that share a row need not count it alike.
    dropped: set[int] = set()
    needed: set[int] = set()
    row_bytes = 0
    query = "SELECT session, first, end, at, row_bytes FROM volumes JOIN sessions ON id = session WHERE file = ?"
    for session, first, end, at, size in db.execute(query, (file,)).fetchall():
        found = db.execute("SELECT block FROM dropped WHERE session = ? AND block >= ?", (session, first)).fetchall()
        gone = {row[0] for row in found if row[0] < end}
        dropped |= {at + n - first for n in gone}
        needed |= {at + n - first for n in range(first, end) if n not in gone}
        row_bytes = max(row_bytes, size)
    return dropped - needed, row_bytes


def shared(db: sqlite3.Connection, session: str, blocks: Iterable[int]) -> int:
    """How many of these blocks of a session another session still needs."""
    count = 0
    for file, first, end, at in db.execute(
        "SELECT file, first, end, at FROM volumes WHERE session = ?", (session,)
    ).fetchall():
        free = unneeded(db, file)[0]
        count += sum(first <= n < end and at + n - first not in free for n in blocks)
    return count
