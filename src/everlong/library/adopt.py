"""Each session's rows of the database once more, in its own folder; and a database made from these again.

FOLDER/sessions/<id>/catalog       a checksum, and what an archive has too: the rows of all tables as JSON
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlong.environment import home
from everlong.errors import DamagedError, InputError, SaveError
from everlong.library import kept_facts, recall_files
from everlong.library.catalog import CATALOG, Catalog, session_folders
from everlong.library.database import check_format
from everlong.library.schema import FORMAT, FORMATS, TABLES

_SUM_BYTES = 8


@dataclass(frozen=True)
class Adopted:
    """What became of a folder that no database named: the session's name and tokens, or why it was left."""

    folder: str
    name: str | None = None
    tokens: int = 0
    why_not: str = ""


def rows_of(db: sqlite3.Connection, session: str) -> dict[str, list[Any]]:
    """The rows of a session in every table."""
    return {
        table: db.execute(f"SELECT * FROM {table} WHERE {key} = ?", (session,)).fetchall()
        for table, key in TABLES.items()
    }


def put_rows(db: sqlite3.Connection, tables: dict[str, list[Any]]) -> None:
    """Add rows that `rows_of` gave."""
    for table in TABLES:
        for row in tables.get(table, ()):
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def note_down(catalog: Catalog, name: str) -> None:
    """Put what the database has of a session into its folder too, from which `adopt` can make it again.

    The rows of before are overwritten, as titles may be forgotten ones.
    """
    entry = catalog.entry(name)
    with catalog.database() as db:
        facts = {"format": FORMAT, "tables": rows_of(db, entry.id), "facts": kept_facts.facts(catalog, entry)}
    body = json.dumps(facts).encode()
    path = catalog.place(entry) / CATALOG
    draft = path.with_name(f".{CATALOG}.{secrets.token_hex(4)}.tmp")
    try:
        with contextlib.ExitStack() as stack:
            # Opened while it still has its name, to be overwritten once another file has it.
            old = stack.enter_context(path.open("r+b")) if path.exists() else None
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(f"{zlib.crc32(body):08x}".encode() + body)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            if old is not None:
                old.write(bytes(os.fstat(old.fileno()).st_size))
    except OSError as error:
        raise SaveError(f"{path}: {error.strerror or error}; make room and try again") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def adopt(folder: str | Path | None = None) -> list[Adopted]:
    """Name the sessions again whose folders the database does not name, as their last checkpoint left them.

    InputError for a folder without sessions.
    """
    place = home() if folder is None else Path(folder)
    if not session_folders(place):
        raise InputError(f"{place}: holds no folders of sessions; give the --store that has them")
    catalog = Catalog(place, orphans=True)
    with catalog.database() as db:
        known = {row[0] for row in db.execute("SELECT id FROM sessions")}
    return [_adopted(catalog, p) for p in session_folders(catalog.folder) if p.name not in known]


def _adopted(catalog: Catalog, folder: Path) -> Adopted:
    try:
        facts = _read(folder / CATALOG)
        check_format(str(folder), "a session", facts["format"], FORMATS)
        tables = _renamed(catalog, folder.name, facts["tables"])
    except (DamagedError, KeyError, IndexError, TypeError) as error:
        return Adopted(folder.name, why_not=str(error))
    session = tables["sessions"][0]
    with catalog.database() as db:
        put_rows(db, tables)
        # A fork may share the last files and go on in them: each of the adopted writes to files of its own.
        catalog.add_volume(db, folder.name, 1 + max((row[1] for row in tables["volumes"]), default=-1), session[8])
        recall_files.go_on_apart(db, folder.name)
    kept_facts.put_facts(catalog, folder.name, facts["facts"])
    note_down(catalog, session[1])
    entry = catalog.entry(session[1])
    return Adopted(folder.name, entry.name, entry.tokens)


def _read(path: Path) -> dict[str, Any]:
    """A catalog; DamagedError without one that is whole."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedError(
            f"{path}: {error.strerror}; it says what the session is (versions before this one wrote none)"
        ) from error
    if f"{zlib.crc32(data[_SUM_BYTES:]):08x}".encode() != data[:_SUM_BYTES]:
        raise DamagedError(f"{path}: not what was written; restore it from a copy")
    return json.loads(data[_SUM_BYTES:])


def _renamed(catalog: Catalog, identity: str, tables: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows for the session `identity`, under a name that is free."""
    name = tables["sessions"][0][1]
    free = name
    count = 1
    while catalog.find(free) is not None:
        count += 1
        free = f"{name}-{count}"
    rows = {table: [[identity, *row[1:]] for row in found] for table, found in tables.items()}
    rows["sessions"][0][1] = free
    return rows
