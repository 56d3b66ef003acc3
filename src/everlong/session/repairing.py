"""Checking every byte of a kept session, and going on with the undamaged part."""

from __future__ import annotations

import sqlite3
import zlib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlong.errors import DamagedError, InputError
from everlong.memory.volume import damaged_rows
from everlong.session import erasing, recall_files, sealed

if TYPE_CHECKING:
    from everlong.session.library import Entry, Library


def verify(library: Library, entry: Entry, repair: bool) -> dict[str, Any]:
    """What is damaged; with `repair`, the session goes on without it."""
    files, fallback = _damaged_files(library, entry), None
    if files and repair:
        fallback = _previous(library, entry)
        if fallback is None:
            raise DamagedError(
                f"{files[0]}: damaged, and the checkpoint before it is damaged or not there; delete session "
                f"{entry.name!r} and read again"
            )
        with library.locked(entry), library.database() as db:
            _go_back(db, fallback)
        entry = fallback
    gone, width = set(library.dropped(entry)), _digest_bytes(library, entry)
    found = [n for v in library.volumes(entry) for n in damaged_rows(v, entry.row_bytes, width) if n not in gone]
    lost = recall_files.damaged(library, entry)
    if repair and lost:
        with library.locked(entry), library.database() as db:
            recall_files.go_back(db, entry.id, lost[0])
    if repair and found:
        with library.locked(entry), library.database() as db:
            db.executemany("INSERT OR IGNORE INTO dropped VALUES (?, ?)", [(entry.id, n) for n in found])
    return {
        "session": entry.name,
        "blocks": entry.blocks,
        "damaged_files": [str(path) for path in files],
        "damaged_blocks": found,
        "damaged_recall_rows": lost,
        "dropped_before": sorted(gone),
        "tokens": entry.tokens,
    }


def _damaged_files(library: Library, entry: Entry) -> list[Path]:
    """The state and the file of ids, where they are not what was written."""
    if entry.state is None:
        return []
    path = library.place(entry) / entry.state
    try:
        document = sealed.read(path)[1]
    except (DamagedError, InputError):
        return [path]
    ids = library.place(entry) / "ids"
    return [] if zlib.crc32(_ids(library, entry).tobytes()) == document["ids"] else [ids]


def _digest_bytes(library: Library, entry: Entry) -> int:
    """Bytes of the digests of one block, as the state has it; 0 without one that can be read."""
    try:
        return 0 if entry.state is None else sealed.read(library.place(entry) / entry.state)[1].get("digest_bytes", 0)
    except (DamagedError, InputError):
        return 0


def _ids(library: Library, entry: Entry) -> array[int]:
    """The ids of a session as they are on the disk, those that were forgotten replaced."""
    path = library.place(entry) / "ids"
    data = path.read_bytes()[: 4 * entry.tokens] if path.exists() else b""
    ids = array("i", data[: len(data) // 4 * 4])
    erasing.blank(library, entry, ids)
    return ids


def _previous(library: Library, entry: Entry) -> Entry | None:
    """The session as the checkpoint before the last left it; None if that is damaged or not kept."""
    with library.database() as db:
        row = db.execute("SELECT state, tokens, blocks FROM states WHERE session = ?", (entry.id,)).fetchone()
    if row is None:
        return None
    older = replace(entry, state=row[0], tokens=row[1], blocks=row[2])
    return None if _damaged_files(library, older) else older


def _go_back(db: sqlite3.Connection, entry: Entry) -> None:
    """Let the database name the checkpoint of `entry`, and nothing that came after it."""
    name, tokens = (entry.id,), (entry.id, entry.tokens)
    db.execute(
        "UPDATE sessions SET state = ?, tokens = ?, blocks = ? WHERE id = ?",
        (entry.state, entry.tokens, entry.blocks, entry.id),
    )
    db.execute("DELETE FROM states WHERE session = ?", name)
    db.execute(
        "UPDATE volumes SET first = min(first, ?), end = min(end, ?) WHERE session = ?",
        (entry.blocks, entry.blocks, entry.id),
    )
    recall_files.go_back(db, entry.id, entry.blocks)
    db.execute("DELETE FROM dropped WHERE session = ? AND block >= ?", (entry.id, entry.blocks))
    db.execute("DELETE FROM pins WHERE session = ? AND end > ?", tokens)
    db.execute("DELETE FROM sources WHERE session = ? AND first > ?", tokens)
    db.execute("DELETE FROM marks WHERE session = ? AND token > ?", tokens)
    last = "(SELECT max(place) FROM sources WHERE session = ?)"
    db.execute(f"UPDATE sources SET done = 0 WHERE session = ? AND place = {last}", (entry.id, entry.id))
    for table in ("marks", "places"):
        db.execute(
            f"DELETE FROM {table} WHERE session = ? AND source > (SELECT max(place) FROM sources WHERE session = ?)",
            2 * name,
        )
