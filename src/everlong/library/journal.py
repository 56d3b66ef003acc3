"""What a kept session has read since its last checkpoint, by which it is read again: four bytes a token.

A record is a header, a document in JSON, the ids, and a CRC-32 of all of these. One that is not whole, and what stands
behind it, is of a process that was killed before the record was on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from everlong.errors import DamagedError, SaveError
from everlong.storage.row_file import overwrite
from everlong.text.transcript import ANSWER, PROMPT

JOURNAL = "journal"
"""The file in a session's folder."""
_HEADER = struct.Struct("<8sII")
MAGIC = b"evjour\x01\n"

Kind = Literal["prompt", "text", "answer"]
"""How tokens were read: as a prompt (what it recalls is held), as plain text, or as an answer that chose for itself."""
SOURCES: dict[Kind, str] = {"prompt": PROMPT, "text": PROMPT, "answer": ANSWER}
"""The source that tokens of each kind are of."""
Run = tuple[Kind, Sequence[int]]
"""Ids that were read in one way."""


@dataclass(frozen=True)
class JournalRecord:
    """What a session read behind its first `first` tokens; `check` is the CRC-32 of all of its ids after that.

    `note` is of whoever had it written: a turn's hash, for example.
    """

    first: int
    runs: Sequence[Run]
    check: int
    conversing: bool = True
    note: dict[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """Tokens of the session after it."""
        return self.first + sum(len(ids) for _, ids in self.runs)

    def packed(self) -> bytes:
        """The record as it stands in the file."""
        facts = {
            "first": self.first,
            "runs": [(kind, len(ids)) for kind, ids in self.runs],
            "check": self.check,
            "conversing": self.conversing,
            "note": self.note,
        }
        document = json.dumps(facts).encode()
        ids = array("i", [token for _, run in self.runs for token in run])
        body = _HEADER.pack(MAGIC, len(document), len(ids)) + document + ids.tobytes()
        return body + zlib.crc32(body).to_bytes(4, "little")


class Journal:
    """The journal of one session, in the file at `path`, behind a checkpoint of so many `tokens`."""

    def __init__(self, path: Path, tokens: int) -> None:
        self.path = path
        self.records: list[JournalRecord] = []
        """Those that go on from the checkpoint, in order."""
        self._ends = [0]
        """Where each record ends in the file, behind those of before the checkpoint."""
        for record, end in _whole(_bytes(path)):
            if record.end <= tokens:
                # A crash came before the journal was emptied.
                self._ends = [end]
            elif record.first == (self.records[-1].end if self.records else tokens):
                self.records.append(record)
                self._ends.append(end)
            else:
                break

    def append(self, record: JournalRecord) -> None:
        """Add a record, and wait until it is on the disk; SaveError leaves those before it."""
        data = record.packed()
        self._write(self._ends[-1], data)
        self._ends.append(self._ends[-1] + len(data))
        self.records.append(record)

    def cut(self, tokens: int) -> None:
        """Forget what was read behind the first `tokens` of the stream, which is where a record ends."""
        kept = sum(record.end <= tokens for record in self.records)
        self._write(self._ends[kept], b"")
        del self.records[kept:]
        del self._ends[kept + 1 :]

    def replace(self, record: JournalRecord) -> None:
        """Let this be the only record."""
        draft = Journal(self.path.with_name(f"{self.path.name}.draft"), 0)
        draft.cut(0)
        draft.append(record)
        draft.path.replace(self.path)
        self.records = [record]
        self._ends = [0, self.path.stat().st_size]

    def _write(self, at: int, data: bytes) -> None:
        """Let the file end with these bytes from `at` on, and wait for the disk."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.ftruncate(descriptor, at)
                with os.fdopen(os.dup(descriptor), "r+b") as file:
                    file.seek(at)
                    file.write(data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SaveError(f"{self.path}: {error.strerror or error}; make room and ask again") from error

    def clear(self, overwrites: bool = False) -> None:
        """Forget all records: a checkpoint has what they say. `overwrites`: on the disk, too."""
        if overwrites and pending(self.path.parent):
            overwrite(self.path, [(0, self.path.stat().st_size)])
        self.records.clear()
        self._ends = [0]
        with contextlib.suppress(OSError):
            os.truncate(self.path, 0)

    def check(self, ids: array[int], record: JournalRecord) -> None:
        """DamagedError unless the ids that were read are those that the record stands behind."""
        if zlib.crc32(ids.tobytes()) != record.check:
            raise DamagedError(f"{self.path}: goes on from another stream than this session's; remove the file")


def pending(path: Path) -> bool:
    """Whether the folder of a session holds a journal with something in it."""
    with contextlib.suppress(OSError):
        return (path / JOURNAL).stat().st_size > 0
    return False


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}; make it readable") from error


def _whole(data: bytes) -> Iterator[tuple[JournalRecord, int]]:
    """The records from the beginning on that are whole, and where each ends."""
    at = 0
    while at + _HEADER.size <= len(data):
        magic, document_bytes, tokens = _HEADER.unpack_from(data, at)
        begin = at + _HEADER.size
        end = begin + document_bytes + 4 * tokens
        check = int.from_bytes(data[end : end + 4], "little")
        if magic != MAGIC or end + 4 > len(data) or zlib.crc32(data[at:end]) != check:
            return
        facts = json.loads(data[begin : begin + document_bytes])
        ids = array("i", data[begin + document_bytes : end]).tolist()
        yield JournalRecord(**facts | {"runs": list(_runs(facts["runs"], ids))}), end + 4
        at = end + 4


def _runs(lengths: Sequence[Sequence[Any]], ids: list[int]) -> Iterator[Run]:
    at = 0
    for kind, length in lengths:
        yield kind, ids[at : at + length]
        at += length
