"""Sessions kept in a folder: a small SQLite database, files of blocks that forks share, and one state for each session.

    FOLDER/everlong.db                 the tables of schema.py
    FOLDER/blocks/<volume>.blocks      records (memory/disk.py), and <volume>.digests beside it
    FOLDER/blocks/<file>.recall        the keys that questions are compared with (memory/recall/files.py)
    FOLDER/sessions/<id>/ids           token ids, int32
    FOLDER/sessions/<id>/state-<n>     what is needed to go on after the last checkpoint, and after the one before it
    FOLDER/sessions/<id>/lock          held by the one process that may write

A checkpoint is valid when the database names it, and it is named after all its files are on the disk. What a killed
process wrote after it is written again by the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlong.environment import home
from everlong.errors import DamagedError, ForeignError, InputError, SaveError, SessionError, nearest
from everlong.locks import lock
from everlong.memory.volume import Volume
from everlong.session import archive, compacting, erasing, recall_files, repairing
from everlong.session.compacting import Compacted
from everlong.session.meaning import is_meaning_file
from everlong.session.places import Place
from everlong.session.schema import FORMAT, SCHEMA, TABLES
from everlong.session.transcript import Source, Stretch

LOCKED_S = 5.0
"""How long to wait for another program's transaction."""


@dataclass(frozen=True)
class Entry:
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


class Library:
    """The kept sessions of one folder; the folder is made, readable by its owner only."""

    def __init__(self, folder: str | Path | None = None, create: bool = True) -> None:
        self.folder = home() if folder is None else Path(folder)
        if not create and not (self.folder / "everlong.db").is_file():
            raise InputError(f"{self.folder}: holds no kept sessions; `everlong read FILE --session NAME` makes one")
        try:
            for part in (self.folder, self.folder / "blocks", self.folder / "sessions"):
                part.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SaveError(f"{self.folder}: {error.strerror or error}; give another folder with --store") from error
        with self.database() as db:
            self._prepare(db)

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Make the tables that are missing: all of them, or those that an earlier version did not have."""
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        known = "facts" in tables
        found = db.execute("SELECT value FROM facts WHERE name = 'format'").fetchone() if known else None
        if found is not None and int(found[0]) != FORMAT:
            raise ForeignError(
                f"{self.folder}: a store of format {found[0]}, expected {FORMAT}; use the version that wrote it"
            )
        if not {*TABLES, "states"} <= tables:
            db.executescript("PRAGMA journal_mode = WAL;" + SCHEMA)
        if found is None:
            db.execute("INSERT INTO facts VALUES ('format', ?)", (str(FORMAT),))

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """A transaction; errors of the database in one line."""
        path = self.folder / "everlong.db"
        try:
            with closing(sqlite3.connect(path, timeout=LOCKED_S)) as db, db:
                yield db
            with contextlib.suppress(OSError):
                path.chmod(0o600)
        except sqlite3.OperationalError as error:
            hint = "close the other program" if "locked" in str(error) else "check the folder's rights and room"
            raise SaveError(f"{path}: {error}; {hint} and try again") from error
        except sqlite3.DatabaseError as error:
            raise DamagedError(f"{path}: not a database, or damaged ({error}); restore it from a copy") from error

    # Sessions.

    def entries(self) -> list[Entry]:
        """All kept sessions, by name."""
        with self.database() as db:
            return [_entry(row) for row in db.execute("SELECT * FROM sessions ORDER BY name")]

    def find(self, name: str) -> Entry | None:
        """The session of this name."""
        with self.database() as db:
            row = db.execute("SELECT * FROM sessions WHERE name = ?", (name,)).fetchone()
            return None if row is None else _entry(row)

    def entry(self, name: str) -> Entry:
        """The session of this name; InputError names the nearest if there is none."""
        found = self.find(name)
        if found is None:
            names = [e.name for e in self.entries()]
            raise InputError(f"session {name!r}: does not exist in {self.folder}; {nearest(name, names)}")
        return found

    def create(self, name: str, model: str, fingerprint: dict[str, Any], method: dict[str, Any]) -> Entry:
        """A new, empty session."""
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"session {name!r}: a name has at least one character, no slash and no leading dot")
        if self.find(name) is not None:
            raise SessionError(f"session {name!r}: exists already in {self.folder}; open it, or give another name")
        now, identity = time.time(), secrets.token_hex(8)
        (self.folder / "sessions" / identity).mkdir(mode=0o700)
        with self.database() as db:
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, NULL)",
                (identity, name, now, now, model, json.dumps(fingerprint), json.dumps(method)),
            )
            self._add_volume(db, identity, 0, 0)
        return self.entry(name)

    def rename(self, name: str, new: str) -> None:
        """Give a session another name."""
        entry = self.entry(name)
        if self.find(new) is not None:
            raise SessionError(f"session {new!r}: exists already; give another name")
        with self.database() as db:
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (new, entry.id))

    def fork(self, name: str, new: str) -> Entry:
        """A session that has read the same and shares its blocks; goes on by itself."""
        with self.locked(self.entry(name)):
            old = self.entry(name)
            twin = self.create(new, old.model, old.fingerprint, old.method)
            for part in ("ids", old.state):
                if part is not None and (self.place(old) / part).exists():
                    shutil.copyfile(self.place(old) / part, self.place(twin) / part)
            with self.database() as db:
                db.execute("DELETE FROM volumes WHERE session = ?", (twin.id,))
                for volume in db.execute(
                    "SELECT * FROM volumes WHERE session = ? ORDER BY place", (old.id,)
                ).fetchall():
                    db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?)", (twin.id, *volume[1:]))
                self._add_volume(db, twin.id, 1 + len(self.volumes(old)), old.blocks)
                recall_files.fork(db, old.id, twin.id)
                for table in ("sources", "marks", "lengths", "places", "dropped", "pins", "forgotten"):
                    for row in db.execute(f"SELECT * FROM {table} WHERE session = ?", (old.id,)).fetchall():
                        marks = ", ".join("?" * len(row))
                        db.execute(f"INSERT INTO {table} VALUES ({marks})", (twin.id, *row[1:]))
                db.execute(
                    "UPDATE sessions SET tokens = ?, blocks = ?, row_bytes = ?, state = ? WHERE id = ?",
                    (old.tokens, old.blocks, old.row_bytes, old.state, twin.id),
                )
        return self.entry(new)

    def delete(self, name: str) -> None:
        """Remove a session, and the files of blocks that no other session needs."""
        entry = self.entry(name)
        with self.locked(entry):
            files = {v.path for v in self.volumes(entry)}
            recall = {extent.path for extent in recall_files.extents(self, entry)}
            with self.database() as db:
                for table, key in (TABLES | {"states": "session"}).items():
                    db.execute(f"DELETE FROM {table} WHERE {key} = ?", (entry.id,))
                db.execute("DELETE FROM facts WHERE name IN (?, ?)", (f"reread {entry.id}", f"encoder {entry.id}"))
                used = {self.block_file(row[0]) for row in db.execute("SELECT file FROM volumes")}
            for path in files - used:
                path.unlink(missing_ok=True)
                path.with_suffix(".digests").unlink(missing_ok=True)
            for path in recall_files.unused(self, recall):
                path.unlink(missing_ok=True)
            erasing.wipe_files(self, files & used)
            shutil.rmtree(self.place(entry), ignore_errors=True)

    # Parts of a session.

    def place(self, entry: Entry) -> Path:
        """The folder of a session's own files."""
        return self.folder / "sessions" / entry.id

    def volumes(self, entry: Entry) -> list[Volume]:
        """Where the session's blocks lie."""
        with self.database() as db:
            rows = db.execute(
                "SELECT file, first, end, at FROM volumes WHERE session = ? ORDER BY place", (entry.id,)
            ).fetchall()
        return [Volume(self.block_file(file), first, end, at) for file, first, end, at in rows]

    def block_file(self, file: str) -> Path:
        """Where a file of blocks lies."""
        return self.folder / "blocks" / file

    @staticmethod
    def _add_volume(db: sqlite3.Connection, session: str, place: int, first: int) -> None:
        file = f"{secrets.token_hex(8)}.blocks"
        db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?, 0)", (session, place, file, first, first))

    @contextmanager
    def locked(self, entry: Entry) -> Iterator[None]:
        """The right to write, for one process at a time; SessionError if another has it."""
        path = self.place(entry) / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SaveError(f"{path}: {error.strerror}; check the folder's rights") from error
        try:
            said = f"session {entry.name!r}: another process is writing to it; wait for it, or ask without --keep"
            lock(descriptor, SessionError(said))
            yield
        finally:
            os.close(descriptor)

    def bytes(self, entry: Entry) -> int:
        """Bytes on the disk of all that the session needs, shared blocks included."""
        blocks = sum(v.end - v.first for v in self.volumes(entry)) * entry.row_bytes
        return self.own_bytes(entry) + blocks + self.recall_bytes(entry)

    def recall_bytes(self, entry: Entry) -> int:
        """Bytes of the session's recall index, rows that it shares included."""
        with self.database() as db:
            query = "SELECT sum((end - first) * (row_bytes + 4)) FROM recall WHERE session = ?"
            return db.execute(query, (entry.id,)).fetchone()[0] or 0

    def own_bytes(self, entry: Entry) -> int:
        """Bytes of the session's own files: ids and states."""
        return sum(p.stat().st_size for p in self.place(entry).iterdir() if p.is_file())

    def tidy(self, entry: Entry) -> None:
        """Remove what a killed process left half-written among the session's own files; for who holds the lock."""
        for path in self.place(entry).iterdir():
            known = path.name in ("ids", "lock", entry.state, erasing.previous_state(self, entry))
            if not known and not is_meaning_file(path.name):
                path.unlink(missing_ok=True)
        if entry.state is None:
            # Rows that no checkpoint ever named; an older version may have written wider digests than will follow.
            own = self.volumes(entry)[-1]
            own.path.unlink(missing_ok=True)
            own.digests.unlink(missing_ok=True)

    def keep_volumes(self, db: sqlite3.Connection, entry: Entry, volumes: list[Volume]) -> None:
        """Name these as the places of the session's blocks."""
        db.execute("DELETE FROM volumes WHERE session = ?", (entry.id,))
        db.executemany(
            "INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?)",
            [(entry.id, place, v.path.name, v.first, v.end, v.at) for place, v in enumerate(volumes)],
        )

    def rows_of_others(self, entry: Entry, path: Path) -> Iterator[int]:
        """The rows of a file of blocks that other sessions need."""
        with self.database() as db:
            query = "SELECT first, end, at FROM volumes WHERE file = ? AND session != ?"
            for first, end, at in db.execute(query, (path.name, entry.id)).fetchall():
                yield from range(at, at + end - first)

    def sources(self, entry: Entry) -> list[Source]:
        """What the session read, in order, with the marks of each source."""
        found = []
        with self.database() as db:
            query = "SELECT place, name, first, digest, done FROM sources WHERE session = ? ORDER BY place"
            for place, name, first, digest, done in db.execute(query, (entry.id,)).fetchall():
                query = "SELECT token, chars FROM marks WHERE session = ? AND source = ? ORDER BY token"
                marks = db.execute(query, (entry.id, place)).fetchall()
                query = "SELECT kind, title, start, level FROM places WHERE session = ? AND source = ? ORDER BY start"
                places = tuple(Place(*row) for row in db.execute(query, (entry.id, place)).fetchall())
                found.append(Source(name, first, digest, bool(done), marks, places))
        return found

    def lengths(self, entry: Entry) -> list[tuple[int, str]]:
        """The lengths of the tokens that the session read, as (first token, a byte for each in Base64)."""
        with self.database() as db:
            query = "SELECT token, data FROM lengths WHERE session = ? AND token < ? ORDER BY token"
            return db.execute(query, (entry.id, entry.tokens)).fetchall()

    def dropped(self, entry: Entry) -> list[int]:
        """Blocks that were found damaged and given up by `verify`."""
        with self.database() as db:
            rows = db.execute("SELECT block FROM dropped WHERE session = ? ORDER BY block", (entry.id,)).fetchall()
        return [row[0] for row in rows]

    def verify(self, entry: Entry, repair: bool = False) -> dict[str, Any]:
        """Check every record, digest, id and state; with `repair` what is damaged is given up and the rest goes on.

        Damaged blocks are dropped; with a damaged state, or ids, the session goes back to the checkpoint before.
        DamagedError where that is damaged too: then the session is to be read again.
        """
        return repairing.verify(self, entry, repair)

    def compact(self, name: str) -> Compacted:
        """Rewrite the files of a session without dropped blocks; the bytes before and after."""
        with self.locked(self.entry(name)):
            return compacting.compact(self, self.entry(name))

    def swap(self, name: str, by: str, aside: str) -> None:
        """Let the session `by` have the name of another, which is called `aside` from then on; at once."""
        old, new = self.entry(name), self.entry(by)
        with self.locked(new), self.database() as db:
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (aside, old.id))
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, new.id))
            db.execute("DELETE FROM facts WHERE name = ?", (f"reread {new.id}",))

    def note(self, name: str, value: str) -> None:
        """Note a fact down."""
        with self.database() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """A fact that was noted down."""
        with self.database() as db:
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def noted_encoder(self, name: str) -> str | None:
        """The sentence encoder that the session of this name was read with."""
        return self.noted(f"encoder {self.entry(name).id}")

    def note_encoder(self, entry: Entry, encoder: str) -> None:
        """Note down which sentence encoder a session was read with."""
        self.note(f"encoder {entry.id}", encoder)

    def forgotten(self, entry: Entry) -> list[Stretch]:
        """The spans that the session has forgotten."""
        with self.database() as db:
            rows = db.execute(
                "SELECT first, end FROM forgotten WHERE session = ? ORDER BY first", (entry.id,)
            ).fetchall()
        return [Stretch(*row) for row in rows]

    def pins(self, entry: Entry) -> list[dict[str, Any]]:
        """The spans that are pinned."""
        with self.database() as db:
            rows = db.execute(
                "SELECT first, end, always, keep FROM pins WHERE session = ? ORDER BY first, end", (entry.id,)
            ).fetchall()
        return [{"first": a, "end": b, "always": bool(always), "keep": bool(keep)} for a, b, always, keep in rows]

    def export(self, name: str, file: Path, overwrite: bool = False) -> None:
        """Write a session to one tar archive; wholly or not at all. SaveError for a file that exists."""
        archive.export(self, self.entry(name), file, overwrite)

    def take(self, file: Path, name: str | None = None) -> Entry:
        """The session of an archive that `export` wrote, under its name or another."""
        return self.entry(archive.take(self, file, name))

    def check_sizes(self, entry: Entry) -> None:
        """DamagedError for a file that is missing or shorter than what was kept."""
        gone = set(self.dropped(entry))
        wanted = [(self.place(entry) / "ids", 4 * entry.tokens)]
        for v in self.volumes(entry):
            last = max((n + 1 for n in range(v.first, v.end) if n not in gone), default=v.first)
            wanted += [(v.path, (v.at + last - v.first) * entry.row_bytes)] if last > v.first else []
        if entry.state is not None:
            wanted.append((self.place(entry) / entry.state, 1))
        for path, size in wanted:
            got = path.stat().st_size if path.exists() else 0
            if got < size:
                raise DamagedError(
                    f"{path}: {got:,} bytes, expected at least {size:,}; restore the file, or run `everlong sessions "
                    "verify --repair`"
                )


def _entry(row: tuple[Any, ...]) -> Entry:
    facts = list(row)
    facts[5], facts[6] = json.loads(facts[5]), json.loads(facts[6])
    return Entry(*facts)
