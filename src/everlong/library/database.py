"""The SQLite file of a library: made by whoever comes first, read where nothing may be written, errors in one line."""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from everlong.errors import DamagedError, ForeignError, SaveError
from everlong.library.schema import FORMAT, FORMATS, SCHEMA

LOCKED_S = 5.0
"""How long to wait for another program's transaction."""
_RETRY_S = 0.02


class Database:
    """The database at `path`; without the right to write there it is only read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))

    def prepare(self) -> None:
        """Make the tables that are missing: all of them, or those that an earlier version did not have.

        ForeignError for a store of a format that this version does not know.
        """
        with self.transaction() as db:
            known = _tables(db)
            found = db.execute("SELECT value FROM facts WHERE name = 'format'").fetchone() if "facts" in known else None
        if found is not None:
            check_format(str(self.path.parent), "a store", int(found[0]), FORMATS)
        if self.writable and (found is None or not SCHEMA.keys() <= known):
            self._make()

    def _make(self) -> None:
        """All tables in one transaction: of two processes the second finds those of the first."""
        with self._in_one_line(), closing(sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None)) as db:
            _use_log(db)
            db.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.values():
                db.execute(statement)
            db.execute("INSERT OR IGNORE INTO facts VALUES ('format', ?)", (str(FORMAT),))
            db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction; errors of the database in one line."""
        with self._in_one_line():
            # A connection as a context manager commits or rolls back, and stays open: hence `closing` around it.
            with closing(self._connected()) as db, db:
                yield db
            if self.writable:
                with contextlib.suppress(OSError):
                    self.path.chmod(0o600)

    def _connected(self) -> sqlite3.Connection:
        if self.writable:
            return sqlite3.connect(self.path, timeout=LOCKED_S)
        log = self.path.with_name(f"{self.path.name}-wal")
        # Without a log nobody writes, and none could be made here; with one it is read along.
        alone = "" if log.exists() and log.stat().st_size else "&immutable=1"
        where = f"{self.path.absolute().as_uri()}?mode=ro{alone}"
        db = sqlite3.connect(where, timeout=LOCKED_S, uri=True)
        try:
            for name in SCHEMA.keys() - _tables(db):
                db.execute(SCHEMA[name].replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise SaveError(f"{self.path}: {error}; {_hint(str(error))} and try again") from error
        except sqlite3.IntegrityError as error:
            raise SaveError(
                f"{self.path}: another process changed the same at the same time ({error}); try again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise DamagedError(
                f"{self.path}: not a database, or damaged ({error}); restore it from a copy, or move it away and run "
                f"`everlong sessions adopt --store {shlex.quote(str(self.path.parent))}`"
            ) from error


def check_format(where: str, what: str, got: object, known: tuple[int, ...]) -> None:
    """ForeignError unless `got` is one of the formats that are `known`, the newest last."""
    if got in known:
        return
    if isinstance(got, int) and got > known[-1]:
        raise ForeignError(f"{where}: {what} of format {got}, newer than this everlong knows ({known[-1]}); update it")
    raise ForeignError(f"{where}: {what} of format {got}, expected {known[-1]}; use the version that wrote it")


def _tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _use_log(db: sqlite3.Connection) -> None:
    """Have changes written to a log, which readers do not wait for; SQLite itself does not wait for the right to."""
    until = time.monotonic() + LOCKED_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(_RETRY_S)


def _hint(said: str) -> str:
    if "locked" in said:
        return "close the other program"
    if "readonly" in said:
        return "it may only be read: check the folder's rights, or take another --store,"
    return "check the folder's rights and room"
