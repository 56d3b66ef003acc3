"""Sessions made, renamed, forked and deleted: what changes the list of them."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from everlong.errors import SaveError
from everlong.library import adopt as adopting
from everlong.library import erase as erasing
from everlong.library import kept_facts, recall_files
from everlong.library.catalog import Catalog, SessionRecord
from everlong.library.journal import JOURNAL
from everlong.library.naming import check_name
from everlong.library.schema import TABLES

_TEXT_TABLES = ("sources", "marks", "lengths", "places", "lines", "dropped", "pins", "forgotten")
"""The tables that a fork has as they are."""


def create(
    catalog: Catalog,
    name: str,
    model: str,
    fingerprint: dict[str, Any],
    method: dict[str, Any],
    origin: dict[str, str] | None = None,
) -> SessionRecord:
    """A new, empty session; `origin` says where its model comes from (`Loaded.origin`)."""
    check_name(name)
    now = time.time()
    identity = secrets.token_hex(8)
    with catalog.database() as db:
        catalog.claim(db, name)
        db.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, NULL)",
            (identity, name, now, now, model, json.dumps(fingerprint), json.dumps(method)),
        )
        catalog.add_volume(db, identity, 0, 0)
        if origin:
            db.execute("INSERT INTO facts VALUES (?, ?)", (f"origin {identity}", json.dumps(origin)))
        _make_folder(catalog.folder / "sessions" / identity)
    return catalog.entry(name)


def rename(catalog: Catalog, name: str, new: str) -> None:
    """Give a session another name."""
    check_name(new)
    entry = catalog.entry(name)
    with catalog.database() as db:
        catalog.claim(db, new)
        db.execute("UPDATE sessions SET name = ? WHERE id = ?", (new, entry.id))
    adopting.note_down(catalog, new)


def swap(catalog: Catalog, name: str, by: str, aside: str) -> None:
    """Let the session `by` have the name of another, which is called `aside` from then on; at once."""
    old = catalog.entry(name)
    new = catalog.entry(by)
    with catalog.locked(new), catalog.database() as db:
        db.execute("UPDATE sessions SET name = ? WHERE id = ?", (aside, old.id))
        db.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, new.id))
        db.execute("DELETE FROM facts WHERE name = ?", (f"reread {new.id}",))
    adopting.note_down(catalog, name)
    adopting.note_down(catalog, aside)


def fork(catalog: Catalog, name: str, new: str) -> SessionRecord:
    """A session that has read the same and shares its blocks; goes on by itself."""
    with catalog.locked(catalog.entry(name)):
        old = catalog.entry(name)
        twin = create(catalog, new, old.model, old.fingerprint, old.method)
        kept_facts.put_facts(catalog, twin.id, kept_facts.facts(catalog, old))
        for part in ("ids", JOURNAL, old.state):
            if part is not None and (catalog.place(old) / part).exists():
                shutil.copyfile(catalog.place(old) / part, catalog.place(twin) / part)
        _share(catalog, old, twin)
        adopting.note_down(catalog, new)
    return catalog.entry(new)


def _share(catalog: Catalog, old: SessionRecord, twin: SessionRecord) -> None:
    """Let a session without blocks have those of another, and all that the database says of it."""
    volumes = catalog.volumes(old)
    with catalog.database() as db:
        catalog.keep_volumes(db, twin.id, volumes)
        # Behind the shared files one of its own: both may read on, and neither writes into what the other needs.
        catalog.add_volume(db, twin.id, 1 + len(volumes), old.blocks)
        recall_files.fork(db, old.id, twin.id)
        for table in _TEXT_TABLES:
            for row in db.execute(f"SELECT * FROM {table} WHERE session = ?", (old.id,)).fetchall():
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT INTO {table} VALUES ({marks})", (twin.id, *row[1:]))
        db.execute(
            "UPDATE sessions SET tokens = ?, blocks = ?, row_bytes = ?, state = ? WHERE id = ?",
            (old.tokens, old.blocks, old.row_bytes, old.state, twin.id),
        )


def delete(catalog: Catalog, name: str) -> None:
    """Remove a session, and the files of blocks that no other session needs."""
    entry = catalog.entry(name)
    with catalog.locked(entry):
        files = {v.path for v in catalog.volumes(entry)}
        recall = {extent.path for extent in recall_files.extents(catalog, entry)}
        # The names go first: a crash then leaves files that no session names, never a session without its files.
        with catalog.database() as db:
            for table, key in (TABLES | {"states": "session"}).items():
                db.execute(f"DELETE FROM {table} WHERE {key} = ?", (entry.id,))
            names = [(f"{what} {entry.id}",) for what in ("reread", *kept_facts.FACTS)]
            db.executemany("DELETE FROM facts WHERE name = ?", names)
            used = {catalog.block_file(row[0]) for row in db.execute("SELECT file FROM volumes")}
        for path in files - used:
            path.unlink(missing_ok=True)
            path.with_suffix(".digests").unlink(missing_ok=True)
        for path in recall_files.unused(catalog, recall):
            path.unlink(missing_ok=True)
        erasing.wipe_files(catalog, files & used)
        shutil.rmtree(catalog.place(entry), ignore_errors=True)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise SaveError(f"{path}: {error.strerror or error}; check the folder's rights and room, try again") from error
