"""A session's place in a library: opening it, and checkpoints that a crash cannot tear."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from array import array
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlong.errors import DamagedError, ForeignError, SaveError, SessionError
from everlong.library import adopt as adopting
from everlong.library import erase as erasing
from everlong.library import kept_facts, kept_text, recall_files
from everlong.library import state_file as sealed
from everlong.library.catalog import SessionRecord
from everlong.library.database import check_format
from everlong.library.journal import JOURNAL, Journal, JournalRecord, Run
from everlong.library.library import Library
from everlong.library.portable import FORMATS, differences, format_of
from everlong.library.repair import check_sizes
from everlong.methods.blocks.recall.files import RecallFiles
from everlong.models.fingerprint import fingerprint
from everlong.storage.kept import kept_store
from everlong.text.transcript import TokenRange

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.library.stream import KeptStream


class Checkpointer:
    """Holds the lock, the store and the entry of one open session; `writable` False only reads."""

    def __init__(self, library: Library, entry: SessionRecord, writable: bool = True) -> None:
        self.rewound = False
        """Whether the session has gone back since the last checkpoint; one that stores no blocks may."""
        self._take(library, entry, writable)

    def _take(self, library: Library, entry: SessionRecord, writable: bool) -> None:
        self.library = library
        self.entry = entry
        self.writable = writable
        make_store = kept_store(entry.made_method().kept_store)
        self._open = ExitStack()
        if writable:
            self._open.enter_context(library.locked(entry))
            # Looked up again: another process may have written until the lock was had.
            self.entry = library.entry(entry.name)
            erasing.erase(library, self.entry)
            erasing.tidy(library, self.entry)
        self.store = make_store(library.volumes(self.entry), writable, frozenset(library.dropped(self.entry)))
        self.store.other_bytes = library.own_bytes(self.entry)
        self.recall_files = RecallFiles(recall_files.extents(library, self.entry, writable), writable)
        self.journal = Journal(self.folder / JOURNAL, self.entry.tokens)
        if writable and not self.journal.records:
            # What a checkpoint has, or goes on from one that was given up; among it may be what was forgotten.
            self.journal.clear(overwrites=True)
        self._reuse()

    def _reuse(self) -> None:
        """Let the store write over rows that no checkpoint of any session names."""
        if self.writable:
            self.store.reuse(self.library.rows_of_others(self.entry, self.store.volumes[-1].path))

    @classmethod
    def created(cls, folder: str | Path | None, name: str, session: KeptStream) -> Checkpointer:
        """The checkpointer of a new session."""
        method = session.method.recipe()
        kept_store(session.method.kept_store)
        library = Library(folder)
        identity = _identity(session)
        return cls(library, library.create(name, session.name, identity, method, session.origin))

    @property
    def folder(self) -> Path:
        """The folder of the session's own files."""
        return self.library.place(self.entry)

    def note_encoder(self, name: str) -> None:
        """Note down which sentence encoder the session's vectors are of."""
        kept_facts.note_encoder(self.library, self.entry, name)

    def check(self, session: KeptStream) -> None:
        """ForeignError unless this model and tokenizer wrote the session; DamagedError for missing bytes."""
        differ = differences(self.entry.fingerprint, _identity(session))
        if differ:
            raise ForeignError(
                f"session {self.entry.name!r}: kept with model {self.entry.model}; another {' and '.join(differ)} than "
                f"given here; load the model it was kept with, with the same dtype and weights{self._told()}"
            )
        check_sizes(self.library, self.entry)

    def _told(self) -> str:
        """Which dtype and weights these are, as far as that was noted down."""
        origin = self.library.origin(self.entry)
        known = [f"{name}={origin[name]}" for name in ("dtype", "weights") if name in origin]
        return f" ({', '.join(known)})" if known else ""

    def restore(self, session: KeptStream) -> None:
        """Bring `session`, which has read nothing, to the last checkpoint."""
        if self.entry.state is None:
            return
        tensors, document = self.read_state()
        session.load_state(tensors, document["state"])
        if self.store.dropped:
            session.drop_blocks(self.store.dropped)
        session.transcript = kept_text.kept_transcript(self.library, self.entry, session.tokenizer)
        if zlib.crc32(session.transcript.ids.tobytes()) != document["ids"]:
            raise DamagedError(
                f"{self.library.place(self.entry) / 'ids'}: not the ids that were written; restore the file"
            )

    def read_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of the last checkpoint, and its document; there must be one."""
        assert self.entry.state is not None
        path = self.library.place(self.entry) / self.entry.state
        tensors, document = sealed.read(path)
        check_format(str(path), "a state", document.get("format", FORMATS[0]), FORMATS)
        return tensors, document

    def checkpoint(self, session: KeptStream) -> None:
        """Keep the session as it is now; SaveError leaves the checkpoint before it, which stays beside the new one."""
        if self.rewound:
            self._write_anew(session)
            return
        # Two states stay: the last, and the one before, to which repair can go back. An older one goes only when the
        # new one is named: until then it is the one before.
        older = erasing.previous_state(self.library, self.entry)
        before = self.entry.state
        self._write(session)
        if older is not None and older not in (before, self.entry.state):
            with contextlib.suppress(OSError):
                (self.library.place(self.entry) / older).unlink()
        self.journal.clear()
        self._settle()

    def note_reading(self, session: KeptStream, runs: Sequence[Run], note: dict[str, Any]) -> Callable[[], None]:
        """What puts down in the journal what the session has read since its last record, on whichever thread.

        SessionError, at once, unless `runs` are all of that.
        """
        if not self.writable:
            raise SessionError(f"session {self.entry.name!r}: open for reading only; open it to write")
        ids = session.transcript.ids
        first = self.journal.records[-1].end if self.journal.records else self.entry.tokens
        record = JournalRecord(first, runs, zlib.crc32(ids.tobytes()), session.conversing, note)
        if array("i", [token for _, run in runs for token in run]) != ids[first:]:
            raise SessionError(f"session {self.entry.name!r}: read other tokens than these; use checkpoint()")
        return lambda: self.journal.append(record)

    def _write_anew(self, session: KeptStream) -> None:
        """Keep a session that has gone back under its name, wholly or not at all: what it was is deleted."""
        library = self.library
        old = self.entry
        name = self.entry.name
        beside = f"{name}~back"
        aside = f"{name}~before"
        for leftover in (beside, aside):
            if library.find(leftover) is not None:
                library.delete(leftover)
        # Not in its place: the new ids would be written over those that its last checkpoint names. So the session is
        # written anew beside itself, and the two names are exchanged in one transaction.
        new = Checkpointer(library, library.create(beside, old.model, old.fingerprint, old.method))
        try:
            new._write(session)
        except BaseException:
            new.undo()
            raise
        new.close()
        self.close()
        try:
            library.swap(name, beside, aside)
        finally:
            self._take(library, library.entry(name), writable=True)
        library.delete(aside)
        self.rewound = False

    def _settle(self) -> None:
        """After a checkpoint: what it takes, and which rows may be written over."""
        self.store.other_bytes = self.library.own_bytes(self.entry)
        self._reuse()

    def forget(self, session: KeptStream, spans: Sequence[TokenRange], gone: frozenset[int]) -> int:
        """Keep `session`, which has forgotten these spans and blocks, and overwrite them; how many a fork still needs.

        One transaction names all that is gone; what a crash leaves to be overwritten is done when it is next opened.
        """
        self.store.dropped |= gone
        self._write(session, spans, gone)
        self.journal.clear(overwrites=True)
        erasing.erase(self.library, self.entry)
        self._settle()
        with self.library.database() as db:
            return erasing.shared(db, self.entry.id, gone)

    def _write(self, session: KeptStream, spans: Sequence[TokenRange] = (), gone: Collection[int] = ()) -> None:
        """Write a state and the new ids, and name them."""
        if not self.writable:
            raise SessionError(f"session {self.entry.name!r}: open for reading only; open it to write")
        entry = self.entry
        folder = self.library.place(self.entry)
        # From here on the order matters: what the database is to name is on the disk before it names it.
        self.store.flush()
        self.recall_files.flush()
        tensors, meta = session.state(sealed=False)
        # A new name each time: the state that the database names is never written over.
        name = f"state-{int((entry.state or 'state-0').rpartition('-')[2]) + 1}"
        ids = session.transcript.ids
        document = {"format": format_of(meta), "state": meta, "ids": zlib.crc32(ids.tobytes())}
        sealed.write(folder / name, tensors, document | {"digest_bytes": self.store.digest_bytes})
        try:
            with (folder / "ids").open("r+b" if (folder / "ids").exists() else "w+b") as file:
                # What stands behind the last checkpoint is of a process that was killed.
                file.seek(4 * entry.tokens)
                file.write(ids[entry.tokens :].tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SaveError(f"{folder / 'ids'}: {error.strerror or error}; make room and try again") from error
        new = _dropped(session) - self.store.dropped
        self._name(session, name, spans, new.union(gone))
        self.store.dropped |= new

    def _name(self, session: KeptStream, state: str, spans: Sequence[TokenRange], gone: Collection[int]) -> None:
        """Let the database name the new checkpoint, and (where nothing was forgotten) the one before it."""
        entry = self.entry
        transcript = session.transcript
        blocks = self.store.blocks
        with self.library.database() as db:
            db.execute("DELETE FROM states WHERE session = ?", (entry.id,))
            # After a span was forgotten nothing may go back to the state before, which knows it.
            if entry.state is not None and not spans:
                db.execute(
                    "INSERT INTO states VALUES (?, ?, ?, ?)", (entry.id, entry.state, entry.tokens, entry.blocks)
                )
            db.executemany("INSERT OR IGNORE INTO dropped VALUES (?, ?)", [(entry.id, n) for n in gone])
            filler = transcript.filler()
            rows = [(entry.id, s.first, s.end, filler) for s in spans]
            db.executemany("INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?, ?, 0)", rows)
            db.execute("DELETE FROM pins WHERE session = ?", (entry.id,))
            pins = session.pins if session.method.answers else ()
            db.executemany("INSERT INTO pins VALUES (?, ?, ?, ?, ?)", [(entry.id, *astuple(p)) for p in pins])
            db.execute(
                "UPDATE sessions SET updated = ?, tokens = ?, blocks = ?, row_bytes = ?, state = ? WHERE id = ?",
                (time.time(), len(transcript.ids), blocks, self.store.row_bytes, state, entry.id),
            )
            self.library.keep_volumes(db, entry.id, self.store.volumes)
            recall_files.keep(db, entry.id, self.recall_files.extents, self.recall_files.row_bytes)
            kept_text.keep(db, entry.id, transcript, entry.tokens, bool(spans))
        self.entry = self.library.entry(entry.name)
        adopting.note_down(self.library, entry.name)

    def undo(self) -> None:
        """Remove a session that was just created."""
        self.close()
        self.library.delete(self.entry.name)

    def close(self) -> None:
        """Give the lock and the files back."""
        self.store.close()
        self.recall_files.close()
        self._open.close()


def _identity(session: KeptStream) -> dict[str, str | None]:
    """The digests of the session's model and tokenizer."""
    return session.identity or fingerprint(session.model, session.tokenizer)


def _dropped(session: KeptStream) -> frozenset[int]:
    """The blocks that the session has dropped, for whatever reason."""
    blocks = session.stored("checkpoint") if session.method.answers else None
    return blocks.rows[0].dropped if blocks is not None and blocks.rows else frozenset()
