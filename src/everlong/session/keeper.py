"""A session's place in a library: opening it, and checkpoints that a crash cannot tear."""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlong.errors import DamagedError, ForeignError, SaveError, SessionError
from everlong.memory.disk import DiskStore
from everlong.methods.base import Method, make_method
from everlong.session import sealed
from everlong.session.fingerprint import fingerprint
from everlong.session.library import Entry, Library
from everlong.session.save import differences
from everlong.session.transcript import Transcript

if TYPE_CHECKING:
    from everlong.session.session import Session


class Keeper:
    """Holds the lock, the store and the entry of one open session; `writable` False only reads."""

    def __init__(self, library: Library, entry: Entry, writable: bool = True) -> None:
        self.library, self.entry, self.writable = library, entry, writable
        self._open = ExitStack()
        if writable:
            self._open.enter_context(library.locked(entry))
            self.entry = library.entry(entry.name)
            library.tidy(self.entry)
        self.store = DiskStore(library.volumes(self.entry), writable, frozenset(library.dropped(self.entry)))
        self.store.other_bytes = library.own_bytes(self.entry)
        self._reuse()

    def _reuse(self) -> None:
        """Let the store write over rows that no checkpoint of any session names."""
        if self.writable:
            self.store.reuse(self.library.rows_of_others(self.entry, self.store.volumes[-1].path))

    @classmethod
    def created(cls, folder: str | Path | None, name: str, session: Session) -> Keeper:
        """The keeper of a new session."""
        library = Library(folder)
        method = {"name": session.method.name, "fields": session.method.as_dict()}
        identity = fingerprint(session.model, session.tokenizer)
        return cls(library, library.create(name, session.name, identity, method))

    def method(self) -> Method:
        """The method that the session was made with."""
        return make_method(self.entry.method["name"], self.entry.method["fields"])

    def check(self, session: Session) -> None:
        """ForeignError unless this model and tokenizer wrote the session; DamagedError for missing bytes."""
        differ = differences(self.entry.fingerprint, fingerprint(session.model, session.tokenizer))
        if differ:
            raise ForeignError(
                f"session {self.entry.name!r}: kept with model {self.entry.model}; another {' and '.join(differ)} than "
                "given here; load the model it was kept with, in the same dtype"
            )
        self.library.check_sizes(self.entry)

    def restore(self, session: Session) -> None:
        """Bring `session`, which has read nothing, to the last checkpoint."""
        if self.entry.state is None:
            return
        path = self.library.place(self.entry) / self.entry.state
        tensors, document = sealed.read(path)
        session.load_state(tensors, document["state"])
        if self.store.dropped:
            session.drop_blocks(self.store.dropped)
        session.transcript = self._transcript(session.tokenizer)
        if zlib.crc32(session.transcript.ids.tobytes()) != document["ids"]:
            raise DamagedError(
                f"{self.library.place(self.entry) / 'ids'}: not the ids that were written; restore the file"
            )

    def _transcript(self, tokenizer: Any) -> Transcript:
        found, entry = Transcript(tokenizer), self.entry
        data = (self.library.place(entry) / "ids").read_bytes()[: 4 * entry.tokens]
        found.ids = array("i", data)
        found.sources = self.library.sources(entry)
        return found

    def checkpoint(self, session: Session) -> None:
        """Keep the session as it is now; SaveError leaves the checkpoint before it."""
        if not self.writable:
            raise SessionError(f"session {self.entry.name!r}: open for reading only; open it to write")
        entry, folder = self.entry, self.library.place(self.entry)
        self.store.flush()
        tensors, meta = session.state(sealed=False)
        name = f"state-{int((entry.state or 'state-0').rpartition('-')[2]) + 1}"
        ids = session.transcript.ids
        document = {"state": meta, "ids": zlib.crc32(ids.tobytes()), "digest_bytes": self.store.digest_bytes}
        sealed.write(folder / name, tensors, document)
        try:
            with (folder / "ids").open("r+b" if (folder / "ids").exists() else "w+b") as file:
                file.seek(4 * entry.tokens)
                file.write(ids[entry.tokens :].tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SaveError(f"{folder / 'ids'}: {error.strerror or error}; make room and try again") from error
        self._name(session, name)
        if entry.state is not None and entry.state != name:
            with contextlib.suppress(OSError):
                (folder / entry.state).unlink()
        self.store.other_bytes = self.library.own_bytes(self.entry)
        self._reuse()

    def _name(self, session: Session, state: str) -> None:
        """Let the database name the new checkpoint."""
        entry, transcript, blocks = self.entry, session.transcript, self.store.blocks
        with self.library.database() as db:
            db.execute(
                "UPDATE sessions SET updated = ?, tokens = ?, blocks = ?, row_bytes = ?, state = ? WHERE id = ?",
                (time.time(), len(transcript.ids), blocks, self.store.row_bytes, state, entry.id),
            )
            self.library.keep_volumes(db, entry, self.store.volumes)
            for place, source in enumerate(transcript.sources):
                db.execute(
                    "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)",
                    (entry.id, place, source.name, source.digest, source.first, source.done),
                )
                new = [(entry.id, place, token, chars) for token, chars in source.marks if token >= entry.tokens - 128]
                db.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", new)
        self.entry = self.library.entry(entry.name)

    def undo(self) -> None:
        """Remove a session that was just created."""
        self.close()
        self.library.delete(self.entry.name)

    def close(self) -> None:
        """Give the lock and the files back."""
        self.store.close()
        self._open.close()
