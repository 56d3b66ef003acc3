"""Checking every byte of a kept session, and going on with the undamaged part."""

from __future__ import annotations

import os
import shlex
import sqlite3
import zlib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

from everlong.errors import DamagedError, InputError, SaveError
from everlong.library import adopt as adopting
from everlong.library import kept_text, recall_files
from everlong.library import state_file as sealed
from everlong.library.catalog import Catalog, SessionRecord
from everlong.library.rebuild_index import rebuild
from everlong.storage.extent import damage


def verify(catalog: Catalog, entry: SessionRecord, repair: bool) -> dict[str, Any]:
    """What is damaged; with `repair`, the session goes on without it."""
    files = _damaged_files(catalog, entry)
    fallback = None
    if files and repair:
        fallback = previous(catalog, entry)
        if fallback is None:
            raise DamagedError(
                f"{files[0]}: damaged, and the checkpoint before it is damaged or not there; delete session "
                f"{entry.name!r} and read again"
            )
        with catalog.locked(entry), catalog.database() as db:
            go_back(db, fallback)
        entry = fallback
    gone = set(kept_text.dropped(catalog, entry))
    width = _digest_bytes(catalog, entry)
    found = [damage(v, entry.row_bytes, width, gone) for v in catalog.volumes(entry)]
    report = {
        "session": entry.name,
        "blocks": entry.blocks,
        "missing_files": [str(path) for path in _missing_files(catalog, entry, gone)],
        "damaged_files": [str(path) for path in files],
        "damaged_blocks": [n for d in found for n in d.blocks],
        "damaged_digests": [n for d in found for n in d.digests],
        "damaged_recall_rows": recall_files.damaged(catalog, entry),
        "dropped_before": sorted(gone),
        "tokens": entry.tokens,
    }
    if repair:
        with catalog.locked(entry):
            _repair(catalog, entry, report)
        adopting.note_down(catalog, entry.name)
    return report


def check_sizes(catalog: Catalog, entry: SessionRecord) -> None:
    """DamagedError for a file that is missing or shorter than what was kept."""
    gone = set(kept_text.dropped(catalog, entry))
    wanted = [(catalog.place(entry) / "ids", 4 * entry.tokens)]
    for v in catalog.volumes(entry):
        last = max((n + 1 for n in range(v.first, v.end) if n not in gone), default=v.first)
        wanted += [(v.path, (v.at + last - v.first) * entry.row_bytes)] if last > v.first else []
    if entry.state is not None:
        wanted.append((catalog.place(entry) / entry.state, 1))
    for path, size in wanted:
        got = path.stat().st_size if path.exists() else 0
        if got < size:
            raise DamagedError(
                f"{path}: {got:,} bytes, expected at least {size:,}; restore the file, or run `everlong sessions "
                f"verify {shlex.quote(entry.name)} --repair --store {shlex.quote(str(catalog.folder))}`"
            )


def _repair(catalog: Catalog, entry: SessionRecord, report: dict[str, Any]) -> None:
    """Make digests again from their blocks' keys, drop damaged blocks, and let lost recall rows be built again."""
    if report["damaged_digests"]:
        rebuild(catalog, entry, report["damaged_digests"])
    with catalog.database() as db:
        rows = [(entry.id, n) for n in report["damaged_blocks"]]
        db.executemany("INSERT OR IGNORE INTO dropped VALUES (?, ?)", rows)
        if report["damaged_recall_rows"]:
            recall_files.go_back(db, entry.id, report["damaged_recall_rows"][0])
    for volume in catalog.volumes(entry):
        for path in (volume.path, volume.digests) if volume.end > volume.first else ():
            _fill_place(path)


def _missing_files(catalog: Catalog, entry: SessionRecord, gone: set[int]) -> list[Path]:
    """Files of blocks, of digests and of recall rows that should be there."""
    needed = [v for v in catalog.volumes(entry) if not gone.issuperset(range(v.first, v.end))]
    wanted = {path for v in needed for path in (v.path, v.digests)}
    wanted |= {extent.path for extent in recall_files.extents(catalog, entry) if extent.end > extent.first}
    return sorted(path for path in wanted if not path.exists())


def _fill_place(path: Path) -> None:
    """An empty file where there is none: all blocks that it had are dropped, and it is opened all the same."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        raise SaveError(f"{path}: {error.strerror or error}; make room, or make it writable, and try again") from error


def _damaged_files(catalog: Catalog, entry: SessionRecord) -> list[Path]:
    """The state and the file of ids, where they are not what was written."""
    if entry.state is None:
        return []
    path = catalog.place(entry) / entry.state
    try:
        document = sealed.read(path)[1]
    except (DamagedError, InputError):
        return [path]
    ids = catalog.place(entry) / "ids"
    return [] if zlib.crc32(_ids(catalog, entry).tobytes()) == document["ids"] else [ids]


def _digest_bytes(catalog: Catalog, entry: SessionRecord) -> int:
    """Bytes of the digests of one block, as the state has it; 0 without one that can be read."""
    try:
        return 0 if entry.state is None else sealed.read(catalog.place(entry) / entry.state)[1].get("digest_bytes", 0)
    except (DamagedError, InputError):
        return 0


def _ids(catalog: Catalog, entry: SessionRecord) -> array[int]:
    """The ids of a session as they are on the disk, those that were forgotten replaced."""
    path = catalog.place(entry) / "ids"
    data = path.read_bytes()[: 4 * entry.tokens] if path.exists() else b""
    ids = array("i", data[: len(data) // 4 * 4])
    kept_text.blank(catalog, entry, ids)
    return ids


def previous(catalog: Catalog, entry: SessionRecord) -> SessionRecord | None:
    """The session as the checkpoint before the last left it; None if that is damaged or not kept."""
    with catalog.database() as db:
        row = db.execute("SELECT state, tokens, blocks FROM states WHERE session = ?", (entry.id,)).fetchone()
    if row is None:
        return None
    older = replace(entry, state=row[0], tokens=row[1], blocks=row[2])
    return None if _damaged_files(catalog, older) else older


def go_back(db: sqlite3.Connection, entry: SessionRecord) -> None:
    """Let the database name the checkpoint of `entry`, and nothing that came after it."""
    name = (entry.id,)
    tokens = (entry.id, entry.tokens)
    db.execute(
        "UPDATE sessions SET state = ?, tokens = ?, blocks = ? WHERE id = ?",
        (entry.state, entry.tokens, entry.blocks, entry.id),
    )
    db.execute("DELETE FROM states WHERE session = ?", name)
    # Volumes that began later become empty and stay: the last one names the file in which the session goes on.
    db.execute(
        "UPDATE volumes SET first = min(first, ?), end = min(end, ?) WHERE session = ?",
        (entry.blocks, entry.blocks, entry.id),
    )
    recall_files.go_back(db, entry.id, entry.blocks)
    db.execute("DELETE FROM dropped WHERE session = ? AND block >= ?", (entry.id, entry.blocks))
    db.execute("DELETE FROM pins WHERE session = ? AND end > ?", tokens)
    db.execute("DELETE FROM sources WHERE session = ? AND first > ?", tokens)
    db.execute("DELETE FROM marks WHERE session = ? AND token > ?", tokens)
    # The last text of that checkpoint may have been read to its end later on.
    last = "(SELECT max(place) FROM sources WHERE session = ?)"
    db.execute(f"UPDATE sources SET done = 0 WHERE session = ? AND place = {last}", (entry.id, entry.id))
    for table in ("marks", "places", "lines"):
        db.execute(
            f"DELETE FROM {table} WHERE session = ? AND source > (SELECT max(place) FROM sources WHERE session = ?)",
            2 * name,
        )
