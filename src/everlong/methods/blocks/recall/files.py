"""Files of recall rows: append-only, one checksummed row for each block, shared by forks.

A row lies where its number says, so that nothing needs to be moved when blocks give way: their rows stay. What lies
behind the last checkpoint is written again. Rows are read with pread and not through a mapping, as those of the blocks
(storage/disk.py): a file that was cut short is an error to report and not a signal.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from everlong.errors import DamagedError, InputError, SaveError

CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Extent:
    """Rows `first` .. `end` - 1 of a stream, at the beginning of the file `path`."""

    path: Path
    first: int
    end: int


class RecallFiles:
    """The rows of one stream in its extents; the last takes more if `writable`. `row_bytes` is set by the index."""

    def __init__(self, extents: Iterable[Extent], writable: bool = False) -> None:
        self.extents = list(extents)
        self.writable = writable
        self.row_bytes = 0
        self._whole: set[tuple[Path, int]] = set()
        self._files: dict[Path, int] = {}
        weakref.finalize(self, _close, self._files)

    @property
    def blocks(self) -> int:
        """How many blocks have a row."""
        return self.extents[-1].end if self.extents else 0

    @property
    def _width(self) -> int:
        return self.row_bytes + CHECKSUM_BYTES

    def write(self, block: int, row: UInt8[Tensor, " bytes"]) -> None:
        """Append the row of the next block; SaveError where that fails."""
        last = self.extents[-1]
        assert block == last.end
        body = row.numpy().tobytes()
        body += zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little")
        try:
            with os.fdopen(os.open(last.path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.seek((block - last.first) * self._width)
                file.write(body)
        except OSError as error:
            raise SaveError(
                f"{last.path}: {error.strerror or error}; nothing that was kept is lost: make room and read on from "
                "the last checkpoint"
            ) from error
        self._whole.discard((last.path, block))
        self.extents[-1] = Extent(last.path, last.first, block + 1)

    def read(self, first: int, end: int) -> UInt8[Tensor, "n bytes"]:
        """The rows of the blocks `first` .. `end` - 1, each checked once; DamagedError for one that was changed."""
        found = np.empty((end - first, self._width), np.uint8)
        for extent in self.extents:
            a = max(first, extent.first)
            b = min(end, extent.end)
            if a < b:
                self._read(extent, a, b, found[a - first : b - first])
        return torch.from_numpy(found)[:, : self.row_bytes]

    def _read(self, extent: Extent, first: int, end: int, rows: np.ndarray) -> None:
        got = os.preadv(self._open(extent.path), [rows.data.cast("B")], (first - extent.first) * self._width)
        whole = got // self._width
        for n, row in enumerate(rows):
            known = (extent.path, first + n) in self._whole
            if n >= whole or not (known or is_whole(row)):
                raise DamagedError(
                    f"{extent.path}: the recall row of block {first + n} is not what was written; run `everlong "
                    "sessions verify NAME --repair`, which has it built again from the stored keys"
                )
            self._whole.add((extent.path, first + n))

    def _open(self, path: Path) -> int:
        if path not in self._files:
            try:
                self._files[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}; restore this file of the recall index") from error
        return self._files[path]

    def flush(self) -> None:
        """Wait until what was written is on the disk."""
        path = self.extents[-1].path if self.extents else None
        if path is not None and path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def reader(self) -> RecallFiles:
        """The same rows, to be read only."""
        other = RecallFiles(self.extents)
        other.row_bytes = self.row_bytes
        other._whole = self._whole
        return other

    @property
    def nbytes(self) -> int:
        """Bytes on the disk."""
        return self.blocks * self._width

    def close(self) -> None:
        """Close the files; they are opened again when rows are read."""
        _close(self._files)


def _close(files: dict[Path, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def is_whole(row: np.ndarray) -> bool:
    """Whether a row has the checksum that stands at its end; a row of zeros is one that was erased."""
    body = row[:-CHECKSUM_BYTES].tobytes()
    said = int.from_bytes(row[-CHECKSUM_BYTES:].tobytes(), "little")
    return zlib.crc32(body) == said or (said == 0 and not row.any())
