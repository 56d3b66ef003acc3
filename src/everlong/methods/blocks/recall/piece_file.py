"""The file of a `MeaningIndex`: a header, and one checksummed row for each piece.

All of it can be made again from the ids. So rows count up to the first that is not what was written (a process that was
killed, a disk that failed), and the pieces behind are encoded anew; nothing wrong is ever read.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from everlong.errors import DamagedError, SaveError

HEADER = struct.Struct("<8sI32sI")
HEADER_BYTES = 64
MAGIC = b"evmean\x01\n"


def row_type(dim: int) -> np.dtype:
    """What is kept of a piece: `dim` + 18 bytes; the checksum, which is the last of them, is the file's own."""
    return np.dtype([("vector", "i1", (dim,)), ("scale", "<f2"), ("end", "<i8"), ("key", "<u4"), ("checksum", "<u4")])


class PieceFile:
    """Rows of vectors of `dim` numbers in the file `path`; one to be written is made if there is none.

    `identity` (32 bytes) says what made the vectors. DamagedError for a file of another identity or without a whole
    header; SaveError where it cannot be opened or written. One process writes at a time (the session's lock).
    """

    def __init__(self, path: Path, dim: int, identity: bytes, writable: bool = True) -> None:
        self.path, self.writable, self._type = path, writable, row_type(dim)
        header = _header(dim, identity)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        if writable and self.nbytes == 0:
            self._write(header, 0)
        elif os.pread(self._file, HEADER_BYTES, 0) != header:
            self.close()
            raise DamagedError(
                f"{path}: not the vectors of this encoder, or damaged; delete the file: it is made again from the text"
            )

    def read(self, rows_at_once: int) -> Iterator[np.ndarray]:
        """The rows up to the first that is not whole, some at a time."""
        width = self._type.itemsize
        done = 0
        while data := os.pread(self._file, rows_at_once * width, HEADER_BYTES + done * width):
            rows = np.frombuffer(data, self._type, len(data) // width)
            sums = _checksums(rows, done)
            whole = int(np.argmin(np.append(rows["checksum"] == sums, False)))
            if whole:
                yield rows[:whole]
            done += whole
            if whole < rows_at_once:
                return

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write rows from number `first` on."""
        rows = rows.copy()
        rows["checksum"] = _checksums(rows, first)
        self._write(rows.tobytes(), HEADER_BYTES + first * self._type.itemsize)

    def truncate(self, rows: int) -> None:
        """Overwrite what lies behind the first `rows` with zeros, then cut it off."""
        size = HEADER_BYTES + rows * self._type.itemsize
        if self.nbytes <= size:
            return
        try:
            self._write(bytes(self.nbytes - size), size)
            os.fsync(self._file)
            os.ftruncate(self._file, size)
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Wait for the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from error

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file).st_size

    def close(self) -> None:
        """Close the file."""
        file = self._file
        self._file = -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def _write(self, data: bytes, at: int) -> None:
        left = memoryview(data)
        try:
            while left:
                written = os.pwrite(self._file, left, at)
                left = left[written:]
                at += written
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> SaveError:
        return SaveError(
            f"{self.path}: {error.strerror or error}; nothing that was kept is lost: make room, or make it writable, "
            "and try again"
        )


def described(path: Path) -> tuple[int, bytes]:
    """How many numbers a vector in the file has, and what made them; DamagedError without a whole header."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise SaveError(f"{path}: {error.strerror or error}; check the folder's rights and try again") from error
    if len(header) == HEADER_BYTES:
        _, dim, identity, _ = HEADER.unpack_from(header)
        if header == _header(dim, identity):
            return dim, identity
    raise DamagedError(f"{path}: no whole header; delete the file: it is made again from the text")


def _header(dim: int, identity: bytes) -> bytes:
    said = HEADER.pack(MAGIC, dim, identity, 0)[:-4]
    return (said + zlib.crc32(said).to_bytes(4, "little")).ljust(HEADER_BYTES, b"\0")


def _checksums(rows: np.ndarray, first: int) -> np.ndarray:
    """A checksum of each row and its number, so that a row in another's place is found as well."""
    body = rows.dtype.itemsize - rows.dtype["checksum"].itemsize
    data = rows.tobytes()
    starts = range(0, len(data), rows.dtype.itemsize)
    found = [zlib.crc32(data[at : at + body], first + n) for n, at in enumerate(starts)]
    return np.array(found, np.uint32)
