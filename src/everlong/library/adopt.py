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
from typing import TYPE_CHECKING, Any

from everlong.errors import DamagedError, SaveError
from everlong.library import recall_files
from everlong.library.catalog import check_format
from everlong.library.schema import FORMAT, FORMATS, TABLES

if TYPE_CHECKING:
    from everlong.library.library import Entry, Library

CATALOG = "catalog"
_SUM_BYTES = 8


@dataclass(frozen=True)
class Adopted:
    """What became of a folder that no database named: the session's name and tokens, or why it was left."""

    folder: str
    name: str | None = None
    tokens: int = 0
    why_not: str = ""


def session_folders(folder: Path) -> list[Path]:
    """The folders of sessions that have read something."""
    with contextlib.suppress(OSError):
        return sorted(p for p in (folder / "sessions").iterdir() if (p / "ids").exists() or any(p.glob("state-*")))
    return []


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


def write(library: Library, entry: Entry) -> None:
    """Put the rows of a session into its folder; those of before are overwritten, as titles may be forgotten ones."""
    with library.database() as db:
        facts = {"format": FORMAT, "tables": rows_of(db, entry.id), "facts": library.facts(entry)}
    body = json.dumps(facts).encode()
    path = library.place(entry) / CATALOG
    draft = path.with_name(f".{CATALOG}.{secrets.token_hex(4)}.tmp")
    try:
        with contextlib.ExitStack() as stack:
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


def adopt(library: Library) -> list[Adopted]:
    """Name the sessions again whose folders the database does not name, as their last checkpoint left them."""
    with library.database() as db:
        known = {row[0] for row in db.execute("SELECT id FROM sessions")}
    return [_adopted(library, p) for p in session_folders(library.folder) if p.name not in known]


def _adopted(library: Library, folder: Path) -> Adopted:
    try:
        facts = _read(folder / CATALOG)
        check_format(str(folder), "a session", facts["format"], FORMATS)
        tables = _renamed(library, folder.name, facts["tables"])
    except (DamagedError, KeyError, IndexError, TypeError) as error:
        return Adopted(folder.name, why_not=str(error))
    session = tables["sessions"][0]
    with library.database() as db:
        put_rows(db, tables)
        # A fork may share the last files and go on in them: each of the adopted writes to files of its own.
        library.add_volume(db, folder.name, 1 + max((row[1] for row in tables["volumes"]), default=-1), session[8])
        recall_files.go_on_apart(db, folder.name)
    library.put_facts(folder.name, facts["facts"])
    entry = library.entry(session[1])
    write(library, entry)
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


def _renamed(library: Library, identity: str, tables: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows for the session `identity`, under a name that is free."""
    name = tables["sessions"][0][1]
    free = name
    count = 1
    while library.find(free) is not None:
        count += 1
        free = f"{name}-{count}"
    rows = {table: [[identity, *row[1:]] for row in found] for table, found in tables.items()}
    rows["sessions"][0][1] = free
    return rows
