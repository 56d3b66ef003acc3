"""The files of a kept session's recall index: which session has which rows, and what becomes of rows that nobody needs.

A session appends to the last of its files. A fork shares the files so far and begins one of its own, and so does a
session that went back to an earlier checkpoint where a fork needs the rows behind it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everlong.library import kept_text
from everlong.library.catalog import Catalog, SessionRecord
from everlong.methods.blocks.recall.files import CHECKSUM_BYTES, Extent, is_whole
from everlong.storage.row_file import overwrite

if TYPE_CHECKING:
    import tarfile

SUFFIX = ".recall"


def extents(catalog: Catalog, entry: SessionRecord, writable: bool = False) -> list[Extent]:
    """Where the rows of a session lie; `writable`: with a last one that it may append to."""
    with catalog.database() as db:
        query = "SELECT file, first, end FROM recall WHERE session = ? ORDER BY place"
        found = [Extent(catalog.block_file(file), *at) for file, *at in db.execute(query, (entry.id,)).fetchall()]
        # A row lies where its number says. So nothing can be appended to a file in which another session has more.
        if writable and (not found or _longest(db, entry, found[-1].path) > found[-1].end):
            first = found[-1].end if found else 0
            found.append(Extent(catalog.block_file(f"{secrets.token_hex(8)}{SUFFIX}"), first, first))
    return found


def _longest(db: sqlite3.Connection, entry: SessionRecord, path: Path) -> int:
    """Up to which block other sessions need a file."""
    query = "SELECT max(end) FROM recall WHERE file = ? AND session != ?"
    return db.execute(query, (path.name, entry.id)).fetchone()[0] or 0


def keep(db: sqlite3.Connection, session: str, kept: list[Extent], row_bytes: int) -> None:
    """Name these as the places of a session's rows, each of `row_bytes` without its checksum."""
    db.execute("DELETE FROM recall WHERE session = ?", (session,))
    rows = [(session, place, e.path.name, e.first, e.end, row_bytes) for place, e in enumerate(kept)]
    db.executemany("INSERT INTO recall VALUES (?, ?, ?, ?, ?, ?)", rows)


def fork(db: sqlite3.Connection, old: str, new: str) -> None:
    """Let the session `new` share the rows of `old`, and have a file for those to come."""
    rows = db.execute("SELECT place, file, first, end, row_bytes FROM recall WHERE session = ? ORDER BY place", (old,))
    db.executemany("INSERT INTO recall VALUES (?, ?, ?, ?, ?, ?)", [(new, *row) for row in rows.fetchall()])
    go_on_apart(db, new)


def go_on_apart(db: sqlite3.Connection, session: str) -> None:
    """Give a session that has rows a file of its own for those to come."""
    query = "SELECT place, end, row_bytes FROM recall WHERE session = ? ORDER BY place DESC LIMIT 1"
    for place, end, row_bytes in db.execute(query, (session,)).fetchall():
        row = (session, place + 1, f"{secrets.token_hex(8)}{SUFFIX}", end, end, row_bytes)
        db.execute("INSERT INTO recall VALUES (?, ?, ?, ?, ?, ?)", row)


def wipe(catalog: Catalog, entry: SessionRecord) -> None:
    """Overwrite the rows of blocks that the session has dropped and no session needs."""
    for extent in extents(catalog, entry):
        with catalog.database() as db:
            places, row_bytes = _unneeded(db, extent.path.name)
        width = row_bytes + CHECKSUM_BYTES
        if places and row_bytes and extent.path.exists():
            overwrite(extent.path, [(n * width, width) for n in sorted(places)])


def _unneeded(db: sqlite3.Connection, file: str) -> tuple[set[int], int]:
    """The rows of a file that some session dropped and none needs, and the bytes of a row."""
    dropped: set[int] = set()
    needed: set[int] = set()
    row_bytes = 0
    query = "SELECT session, first, end, row_bytes FROM recall WHERE file = ?"
    for session, first, end, size in db.execute(query, (file,)).fetchall():
        found = db.execute("SELECT block FROM dropped WHERE session = ?", (session,)).fetchall()
        gone = {n - first for (n,) in found if first <= n < end}
        dropped |= gone
        needed |= set(range(end - first)) - gone
        row_bytes = max(row_bytes, size)
    return dropped - needed, row_bytes


def unused(catalog: Catalog, paths: set[Path]) -> set[Path]:
    """Those of these files that no session has rows in."""
    with catalog.database() as db:
        return paths - {catalog.block_file(row[0]) for row in db.execute("SELECT file FROM recall")}


def damaged(catalog: Catalog, entry: SessionRecord) -> list[int]:
    """The blocks whose rows are not what was written; empty rows of blocks that were overwritten are whole."""
    return [n for extent in extents(catalog, entry) for n in _damaged(catalog, entry, extent)]


def _damaged(catalog: Catalog, entry: SessionRecord, extent: Extent) -> Iterator[int]:
    with catalog.database() as db:
        query = "SELECT row_bytes FROM recall WHERE session = ? AND file = ?"
        width = db.execute(query, (entry.id, extent.path.name)).fetchone()[0] + CHECKSUM_BYTES
    size = extent.path.stat().st_size if extent.path.exists() else 0
    rows = np.memmap(extent.path, np.uint8, "r") if size else np.empty(0, np.uint8)
    for n in range(extent.end - extent.first):
        row = rows[n * width : (n + 1) * width]
        if len(row) < width or not is_whole(row):
            yield extent.first + n


def go_back(db: sqlite3.Connection, session: str, blocks: int) -> None:
    """Let the session have the rows of its first `blocks` blocks only."""
    cut = "UPDATE recall SET first = min(first, ?), end = min(end, ?) WHERE session = ?"
    db.execute(cut, (blocks, blocks, session))
    db.execute("DELETE FROM recall WHERE session = ? AND first = end AND place > 0", (session,))


def archive(catalog: Catalog, entry: SessionRecord, tar: tarfile.TarFile, draft: Path) -> None:
    """Add the files to an archive, without the bytes of what the session has dropped."""
    dropped = set(kept_text.dropped(catalog, entry))
    for extent in extents(catalog, entry):
        if not extent.path.exists():
            continue
        copy = draft.with_suffix(SUFFIX)
        shutil.copyfile(extent.path, copy)
        with catalog.database() as db:
            width = _unneeded(db, extent.path.name)[1] + CHECKSUM_BYTES
        # Behind the session's own rows may lie those of another that shares the file.
        os.truncate(copy, min(copy.stat().st_size, (extent.end - extent.first) * width))
        gone = [n for n in range(extent.first, extent.end) if n in dropped]
        overwrite(copy, [((n - extent.first) * width, width) for n in gone])
        tar.add(copy, f"blocks/{extent.path.name}")
        copy.unlink()
