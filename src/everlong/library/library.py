"""Sessions kept in a folder: a small SQLite database, files of blocks that forks share, and one state for each session.

    FOLDER/everlong.db                 the tables of schema.py
    FOLDER/blocks/<volume>.blocks      records (storage/disk.py), and <volume>.digests beside it
    FOLDER/blocks/<file>.recall        the keys that questions are compared with (methods/blocks/recall/files.py)
    FOLDER/sessions/<id>/ids           token ids, int32
    FOLDER/sessions/<id>/state-<n>     what is needed to go on after the last checkpoint, and after the one before it
    FOLDER/sessions/<id>/catalog       the session's rows of the database once more (adopting.py)
    FOLDER/sessions/<id>/lock          held by the one process that may write

A checkpoint is valid when the database names it, and it is named after all its files are on the disk. What a killed
process wrote after it is written again by the next.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlong.environment import home
from everlong.errors import DamagedError, InputError, SaveError, SessionError, nearest
from everlong.library import adopt as adopting
from everlong.library import archive, recall_files
from everlong.library import compact as compacting
from everlong.library import erase as erasing
from everlong.library import repair as repairing
from everlong.library.catalog import Database
from everlong.library.compact import Compacted
from everlong.library.naming import check_name
from everlong.library.schema import FORMAT, TABLES
from everlong.library.sentence_index import is_meaning_file
from everlong.locks import lock
from everlong.storage.extent import Volume
from everlong.text.places import Place
from everlong.text.transcript import Source, Stretch

FACTS = ("encoder", "origin")
"""What the database notes down of a session beside its tables."""


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
    """The kept sessions of one folder; the folder is made, readable by its owner only.

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
        if adopting.session_folders(self.folder):
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

    def create(
        self,
        name: str,
        model: str,
        fingerprint: dict[str, Any],
        method: dict[str, Any],
        origin: dict[str, str] | None = None,
    ) -> Entry:
        """A new, empty session; `origin` says where its model comes from (`Loaded.origin`)."""
        check_name(name)
        now, identity = time.time(), secrets.token_hex(8)
        with self.database() as db:
            self.claim(db, name)
            db.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, NULL)",
                (identity, name, now, now, model, json.dumps(fingerprint), json.dumps(method)),
            )
            self.add_volume(db, identity, 0, 0)
            if origin:
                db.execute("INSERT INTO facts VALUES (?, ?)", (f"origin {identity}", json.dumps(origin)))
            _make_folder(self.folder / "sessions" / identity)
        return self.entry(name)

    def claim(self, db: sqlite3.Connection, name: str) -> None:
        """Begin a transaction in which no other process can take `name`; SessionError where a session has it."""
        db.execute("BEGIN IMMEDIATE")
        if db.execute("SELECT 1 FROM sessions WHERE name = ?", (name,)).fetchone() is not None:
            raise SessionError(f"session {name!r}: exists already in {self.folder}; open it, or give another name")
        db.execute("UPDATE facts SET value = ? WHERE name = 'format'", (str(FORMAT),))

    def rename(self, name: str, new: str) -> None:
        """Give a session another name."""
        check_name(new)
        entry = self.entry(name)
        with self.database() as db:
            self.claim(db, new)
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (new, entry.id))
        self.note_down(new)

    def note_down(self, name: str) -> None:
        """Put what the database has of a session into its folder too, from which `adopt` can make it again."""
        adopting.write(self, self.entry(name))

    @classmethod
    def adopted(cls, folder: str | Path | None = None) -> list[adopting.Adopted]:
        """Name the sessions of a folder again that its database does not name, or that has none; what became of them.

        InputError for a folder without sessions.
        """
        place = home() if folder is None else Path(folder)
        if not adopting.session_folders(place):
            raise InputError(f"{place}: holds no folders of sessions; give the --store that has them")
        return adopting.adopt(cls(place, orphans=True))

    def fork(self, name: str, new: str) -> Entry:
        """A session that has read the same and shares its blocks; goes on by itself."""
        with self.locked(self.entry(name)):
            old = self.entry(name)
            twin = self.create(new, old.model, old.fingerprint, old.method)
            self.put_facts(twin.id, self.facts(old))
            for part in ("ids", old.state):
                if part is not None and (self.place(old) / part).exists():
                    shutil.copyfile(self.place(old) / part, self.place(twin) / part)
            with self.database() as db:
                db.execute("DELETE FROM volumes WHERE session = ?", (twin.id,))
                for volume in db.execute(
                    "SELECT * FROM volumes WHERE session = ? ORDER BY place", (old.id,)
                ).fetchall():
                    db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?, ?)", (twin.id, *volume[1:]))
                self.add_volume(db, twin.id, 1 + len(self.volumes(old)), old.blocks)
                recall_files.fork(db, old.id, twin.id)
                for table in ("sources", "marks", "lengths", "places", "lines", "dropped", "pins", "forgotten"):
                    for row in db.execute(f"SELECT * FROM {table} WHERE session = ?", (old.id,)).fetchall():
                        marks = ", ".join("?" * len(row))
                        db.execute(f"INSERT INTO {table} VALUES ({marks})", (twin.id, *row[1:]))
                db.execute(
                    "UPDATE sessions SET tokens = ?, blocks = ?, row_bytes = ?, state = ? WHERE id = ?",
                    (old.tokens, old.blocks, old.row_bytes, old.state, twin.id),
                )
            self.note_down(new)
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
                names = [(f"{what} {entry.id}",) for what in ("reread", *FACTS)]
                db.executemany("DELETE FROM facts WHERE name = ?", names)
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
    def add_volume(db: sqlite3.Connection, session: str, place: int, first: int) -> None:
        """Give a session a file for the blocks from number `first` on."""
        file = f"{secrets.token_hex(8)}.blocks"
        db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?, 0)", (session, place, file, first, first))

    @contextmanager
    def locked(self, entry: Entry) -> Iterator[None]:
        """The right to write, for one process at a time; SessionError if another has it."""
        path, close = self.place(entry) / "lock", os.close
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
        """Bytes of the session's own files: ids and states, as the database and its copies are not counted."""
        return sum(p.stat().st_size for p in self.place(entry).iterdir() if p.is_file() and p.name != adopting.CATALOG)

    def tidy(self, entry: Entry) -> None:
        """Remove what a killed process left half-written among the session's own files; for who holds the lock."""
        for path in self.place(entry).iterdir():
            known = path.name in ("ids", "lock", adopting.CATALOG, entry.state, erasing.previous_state(self, entry))
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
            lines = dict(db.execute("SELECT source, data FROM lines WHERE session = ?", (entry.id,)).fetchall())
            for place, name, first, digest, done in db.execute(query, (entry.id,)).fetchall():
                query = "SELECT token, chars FROM marks WHERE session = ? AND source = ? ORDER BY token"
                marks = db.execute(query, (entry.id, place)).fetchall()
                query = "SELECT kind, title, start, level FROM places WHERE session = ? AND source = ? ORDER BY start"
                places = tuple(Place(*row) for row in db.execute(query, (entry.id, place)).fetchall())
                found.append(Source(name, first, digest, bool(done), marks, places, lines.get(place, "")))
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

        Damaged blocks are dropped, digests are made again from the keys of their blocks, and files that are missing are
        made anew; with a damaged state, or ids, the session goes back to the checkpoint before.
        DamagedError where that is damaged too: then the session is to be read again.
        """
        found = repairing.verify(self, entry, repair)
        if repair:
            self.note_down(entry.name)
        return found

    def compact(self, name: str) -> Compacted:
        """Rewrite the files of a session without dropped blocks; the bytes before and after."""
        with self.locked(self.entry(name)):
            done = compacting.compact(self, self.entry(name))
            for entry in self.entries():
                self.note_down(entry.name)
            return done

    def swap(self, name: str, by: str, aside: str) -> None:
        """Let the session `by` have the name of another, which is called `aside` from then on; at once."""
        old, new = self.entry(name), self.entry(by)
        with self.locked(new), self.database() as db:
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (aside, old.id))
            db.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, new.id))
            db.execute("DELETE FROM facts WHERE name = ?", (f"reread {new.id}",))
        self.note_down(name)
        self.note_down(aside)

    def note(self, name: str, value: str) -> None:
        """Note a fact down."""
        with self.database() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """A fact that was noted down."""
        with self.database() as db:
            row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def facts(self, entry: Entry) -> dict[str, str]:
        """What else is noted down of a session, by name."""
        found = {what: self.noted(f"{what} {entry.id}") for what in FACTS}
        return {what: value for what, value in found.items() if value is not None}

    def put_facts(self, identity: str, facts: dict[str, str]) -> None:
        """Note down what `facts` gave."""
        for what in set(FACTS).intersection(facts):
            self.note(f"{what} {identity}", facts[what])

    def origin(self, entry: Entry) -> dict[str, str]:
        """Where the model of a session comes from, as far as it is known: model, dtype, memory."""
        found = self.noted(f"origin {entry.id}")
        return {"model": entry.model} if found is None else json.loads(found)

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
                    f"verify {shlex.quote(entry.name)} --repair --store {shlex.quote(str(self.folder))}`"
                )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise SaveError(f"{path}: {error.strerror or error}; check the folder's rights and room, try again") from error


def _entry(row: tuple[Any, ...]) -> Entry:
    facts = list(row)
    facts[5], facts[6] = json.loads(facts[5]), json.loads(facts[6])
    return Entry(*facts)
