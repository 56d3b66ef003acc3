"""The catalog of a library: which sessions there are, where their files lie, who may write to them.

    FOLDER/everlong.db                 the tables of schema.py
    FOLDER/blocks/<volume>.blocks      records (storage/disk.py), and <volume>.digests beside it
    FOLDER/blocks/<file>.recall        the keys that questions are compared with (methods/blocks/recall/files.py)
    FOLDER/sessions/<id>/ids           token ids, int32
    FOLDER/sessions/<id>/state-<n>     what is needed to go on after the last checkpoint, and after the one before it
    FOLDER/sessions/<id>/catalog       the session's rows of the database once more (adopt.py)
    FOLDER/sessions/<id>/lock          held by the one process that may write

A checkpoint is valid when the database names it, and it is named after all its files are on the disk. What a killed
process wrote after it is written again by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlong.environment import home
from everlong.errors import ConfigError, DamagedError, ForeignError, InputError, SaveError, SessionError, nearest
from everlong.library.database import Database
from everlong.library.schema import FORMAT
from everlong.locks import lock
from everlong.methods.base import Method, make_method
from everlong.storage.extent import Volume

CATALOG = "catalog"
"""The file in a session's folder that has its rows once more."""


@dataclass(frozen=True)
class SessionRecord:
    """A kept session, as the database has it."""

    id: str
    name: str
    created: float
    updated: float
    model: str
    fingerprint: dict[str, Any]
    method: dict[str, Any]
    tokens: int
    blocks: int
    row_bytes: int
    state: str | None

    def made_method(self) -> Method:
        """The method that the session was made with; ForeignError where it, its codec or its store is not here."""
        try:
            return make_method(self.method["name"], self.method["fields"])
        except ConfigError as error:
            raise ForeignError(
                f"session {self.name!r}: kept with a method that this version does not have ({error}); install the "
                "version, or the package, that kept it"
            ) from error


class Catalog:
    """The catalog of one folder; the folder is made, readable by its owner only.

    Without `create` it must be there. A folder with sessions and no database is refused, unless `orphans` are wanted.
    """

    def __init__(self, folder: str | Path | None = None, create: bool = True, orphans: bool = False) -> None:
        self.folder = home() if folder is None else Path(folder)
        path = self.folder / "everlong.db"
        if not path.is_file() and not orphans:
            self._check_new(create)
        try:
            for part in (self.folder, self.folder / "blocks", self.folder / "sessions"):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SaveError(f"{self.folder}: {error.strerror or error}; give another folder with --store") from error
        self._database = Database(path)
        self._database.prepare()

    def _check_new(self, create: bool) -> None:
        """An error where a database is missing that should be there, or where none should be made."""
        if session_folders(self.folder):
            raise DamagedError(
                f"{self.folder}: holds sessions, and no everlong.db that names them; restore it from a copy, or "
                f"rebuild it with `everlong sessions adopt --store {shlex.quote(str(self.folder))}`"
            )
        if not create:
            raise InputError(f"{self.folder}: holds no kept sessions; `everlong read FILE --session NAME` makes one")

    def database(self) -> AbstractContextManager[sqlite3.Connection]:
        """A transaction; errors of the database in one line."""
        return self._database.transaction()

    # Sessions.

    def entries(self) -> list[SessionRecord]:
        """All kept sessions, by name."""
        with self.database() as db:
            return [_record(row) for row in db.execute("SELECT * FROM sessions ORDER BY name")]

    def find(self, name: str) -> SessionRecord | None:
        """The session of this name."""
        with self.database() as db:
            row = db.execute("SELECT * FROM sessions WHERE name = ?", (name,)).fetchone()
            return None if row is None else _record(row)

    def entry(self, name: str) -> SessionRecord:
        """The session of this name; InputError names the nearest if there is none."""
        found = self.find(name)
        if found is None:
            names = [e.name for e in self.entries()]
            raise InputError(f"session {name!r}: does not exist in {self.folder}; {nearest(name, names)}")
        return found

    def claim(self, db: sqlite3.Connection, name: str) -> None:
        """Begin a transaction in which no other process can take `name`; SessionError where a session has it."""
        db.execute("BEGIN IMMEDIATE")
        if db.execute("SELECT 1 FROM sessions WHERE name = ?", (name,)).fetchone() is not None:
            raise SessionError(f"session {name!r}: exists already in {self.folder}; open it, or give another name")
        # The store may now come to hold what a version that knows the older format alone would misread.
        db.execute("UPDATE facts SET value = ? WHERE name = 'format'", (str(FORMAT),))

    @contextmanager
    def locked(self, entry: SessionRecord) -> Iterator[None]:
        """The right to write, for one process at a time; SessionError if another has it."""
        path = self.place(entry) / "lock"
        close = os.close
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SaveError(f"{path}: {error.strerror}; check the folder's rights") from error
        try:
            said = f"session {entry.name!r}: another process is writing to it; wait for it, or ask without --keep"
            lock(descriptor, SessionError(said))
            yield
        finally:
            # Bound above: a session that is left open is let go of when the interpreter has emptied its modules.
            close(descriptor)

    def previous_tokens(self, entry: SessionRecord) -> int:
        """Tokens of a session's checkpoint before the last; of the last where that is not kept."""
        with self.database() as db:
            row = db.execute("SELECT tokens FROM states WHERE session = ?", (entry.id,)).fetchone()
        return entry.tokens if row is None else row[0]

    # The files of a session.

    def place(self, entry: SessionRecord) -> Path:
        """The folder of a session's own files."""
        return self.folder / "sessions" / entry.id

    def block_file(self, file: str) -> Path:
        """Where a file of blocks lies."""
        return self.folder / "blocks" / file

    def volumes(self, entry: SessionRecord) -> list[Volume]:
        """Where the session's blocks lie."""
        with self.database() as db:
            rows = db.execute(
                "SELECT file, first, end, at FROM volumes WHERE session = ? ORDER BY place", (entry.id,)
            ).fetchall()
        return [Volume(self.block_file(file), first, end, at) for file, first, end, at in rows]

    @staticmethod
    def add_volume(db: sqlite3.Connection, session: str, place: int, first: int) -> None:
        """Give a session a file for the blocks from number `first` on."""
        file = f"{secrets.token_hex(8)}.blocks"
        db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?, 0)", (session, place, file, first, first))

    @staticmethod
    def keep_volumes(db: sqlite3.Connection, session: str, volumes: list[Volume]) -> None:
        """Name these as the places of the session's blocks."""
        db.execute("DELETE FROM volumes WHERE session = ?", (session,))
        db.executemany(
            "INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?)",
            [(session, place, v.path.name, v.first, v.end, v.at) for place, v in enumerate(volumes)],
        )

    def rows_of_others(self, entry: SessionRecord, path: Path) -> Iterator[int]:
        """The rows of a file of blocks that other sessions need."""
        with self.database() as db:
            query = "SELECT first, end, at FROM volumes WHERE file = ? AND session != ?"
            for first, end, at in db.execute(query, (path.name, entry.id)).fetchall():
                yield from range(at, at + end - first)

    def bytes(self, entry: SessionRecord) -> int:
        """Bytes on the disk of all that the session needs, shared blocks included."""
        blocks = sum(v.end - v.first for v in self.volumes(entry)) * entry.row_bytes
        return self.own_bytes(entry) + blocks + self.recall_bytes(entry)

    def recall_bytes(self, entry: SessionRecord) -> int:
        """Bytes of the session's recall index, rows that it shares included."""
        with self.database() as db:
            query = "SELECT sum((end - first) * (row_bytes + 4)) FROM recall WHERE session = ?"
            return db.execute(query, (entry.id,)).fetchone()[0] or 0

    def own_bytes(self, entry: SessionRecord) -> int:
        """Bytes of the session's own files: ids and states, as the database and its copies are not counted."""
        total = 0
        with contextlib.suppress(FileNotFoundError):  # another thread is deleting the session
            for path in self.place(entry).iterdir():
                with contextlib.suppress(FileNotFoundError):  # or has written a newer state
                    total += path.stat().st_size if path.is_file() and path.name != CATALOG else 0
        return total


def session_folders(folder: Path) -> list[Path]:
    """The folders of sessions that have read something."""
    with contextlib.suppress(OSError):
        return sorted(p for p in (folder / "sessions").iterdir() if (p / "ids").exists() or any(p.glob("state-*")))
    return []


def _record(row: tuple[Any, ...]) -> SessionRecord:
    facts = list(row)
    facts[5], facts[6] = json.loads(facts[5]), json.loads(facts[6])
    return SessionRecord(*facts)
