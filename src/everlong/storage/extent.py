"""What a file of blocks looks like: rows of checksummed records, their digests beside it, and how both are checked."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everlong.errors import DamagedError
from everlong.ops.spans import Ints
from everlong.storage.codecs.base import Codec
from everlong.storage.write_behind import QUEUED_ROWS

HEADER = struct.Struct("<8sIIIIQ")
HEADER_BYTES = 64
MAGIC = b"evrlng\x01\n"
ROWS_AT_ONCE = 64
"""Rows of digests that are read at once."""


@dataclass
class RowLayout:
    """A row: the records of all layers for one block, each behind its header; `codecs` made them."""

    codecs: dict[int, Codec] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    """Where in a row the header of each layer's record begins."""
    row_bytes: int = 0

    def add(self, layer: int, codec: Codec) -> None:
        """Make room for a layer's record behind the others."""
        self.codecs[layer], self.offsets[layer] = codec, self.row_bytes
        self.row_bytes += HEADER_BYTES + codec.record_bytes

    def put(self, row: Tensor, layer: int, block: int, tokens: int, payload: Tensor) -> None:
        """Write a layer's record of a block of so many tokens, with its header, into the row."""
        size = self.codecs[layer].record_bytes
        record = row[self.offsets[layer] :][: HEADER_BYTES + size]
        record[HEADER_BYTES:] = payload
        header = HEADER.pack(MAGIC, layer, block, tokens, zlib.crc32(payload.numpy().data), size)
        record[: HEADER.size] = torch.frombuffer(bytearray(header), dtype=torch.uint8)

    def record(self, row: Tensor, layer: int) -> Tensor:
        """A layer's record in the row."""
        return row[self.offsets[layer] + HEADER_BYTES :][: self.codecs[layer].record_bytes]

    def copy(self) -> RowLayout:
        """The same, independent."""
        return RowLayout(dict(self.codecs), dict(self.offsets), self.row_bytes)


@dataclass(frozen=True)
class Volume:
    """Rows `first` .. `end - 1` of a stream, in the file `path` from its row `at` on."""

    path: Path
    first: int
    end: int
    at: int = 0

    @property
    def digests(self) -> Path:
        """The file with the digests of the same rows."""
        return self.path.with_suffix(".digests")


def parts(volume: Volume, gone: Ints) -> Iterator[Volume]:
    """What is left of a volume without the blocks that are `gone`."""
    first = volume.first
    a, b = np.searchsorted(gone, (volume.first, volume.end)).tolist()
    for block in [*gone[a:b].tolist(), volume.end]:
        if block > first:
            yield Volume(volume.path, first, block, volume.at + first - volume.first)
        first = block + 1


def check_digests_fit(descriptor: int, volume: Volume, width: int, dropped: Collection[int]) -> None:
    """DamagedError where the open file of digests is too short for a block of the volume that is not `dropped`."""
    rows = max(0, os.fstat(descriptor).st_size // width - volume.at)
    for block in range(volume.first + rows, volume.end):
        if block not in dropped:
            raise _damaged(volume, block)


def digest_rows(descriptor: int, volume: Volume, width: int, dropped: Collection[int]) -> Iterator[np.ndarray]:
    """The rows of digests [n, width] with their checksums, some at a time, checked; those of `dropped` are zeros."""
    for first in range(volume.first, volume.end, ROWS_AT_ONCE):
        rows = np.zeros((min(ROWS_AT_ONCE, volume.end - first), width), np.uint8)
        data = os.pread(descriptor, rows.size, (volume.at + first - volume.first) * width)
        whole = len(data) // width
        rows[:whole] = np.frombuffer(data, np.uint8, whole * width).reshape(-1, width)
        for n, row in enumerate(rows):
            if first + n in dropped:
                row[:] = 0
            elif n >= whole or not _is_whole(row):
                raise _damaged(volume, first + n)
        yield rows


def _damaged(volume: Volume, block: int) -> DamagedError:
    return DamagedError(
        f"{volume.digests}: the digests of block {block} are not what was written; run `everlong sessions verify "
        "NAME --repair`"
    )


def _is_whole(row: np.ndarray) -> bool:
    """Whether a row of digests has the checksum that stands at its end."""
    return zlib.crc32(row[:-4].tobytes()) == int.from_bytes(row[-4:].tobytes(), "little")


def digest_width(path: Path, row_bytes: int) -> int:
    """Bytes of one row of digests beside the blocks of `path`: the width at which checksums hold; 0 without digests.

    A writer that was killed may have written the blocks of some rows and not their digests.
    """
    digests = path.with_suffix(".digests")
    if not row_bytes or not path.exists() or not digests.exists():
        return 0
    # Neither file says how wide a row of digests is. A width is right where a checksum holds; which are tried follows
    # from how many rows there are: as many as blocks, or fewer by what a killed writer had queued.
    rows = -(-path.stat().st_size // row_bytes)
    data = np.memmap(digests, np.uint8, "r") if digests.stat().st_size else b""
    for count in range(rows, max(0, rows - QUEUED_ROWS - 2), -1):
        width = len(data) // count
        if width > 4 and any(_is_whole(np.asarray(data[n * width : (n + 1) * width])) for n in range(count)):
            return width
    return len(data) // max(1, rows)


@dataclass(frozen=True)
class Damage:
    """Blocks of a volume whose records, or whose digests alone, are not what was written."""

    blocks: list[int]
    digests: list[int]


def damage(volume: Volume, row_bytes: int, width: int, dropped: Collection[int] = ()) -> Damage:
    """Check every byte of a volume's rows and digests, but for those of blocks that were `dropped`.

    `width` is how many bytes the digests of a block take; 0 (an older store): as `digest_width` finds.
    """
    count = volume.end - volume.first
    found = Damage([], [])
    width = width or (digest_width(volume.path, row_bytes) if count else 0)
    for n in range(count):
        block = volume.first + n
        if block in dropped:
            continue
        row = _bytes(volume.path, (volume.at + n) * row_bytes, row_bytes)
        digests = _bytes(volume.digests, (volume.at + n) * width, width)
        if not _is_whole_row(row, block, row_bytes):
            found.blocks.append(block)
        elif len(digests) < max(width, 5) or not _is_whole(np.frombuffer(digests, np.uint8)):
            found.digests.append(block)
    return found


def _bytes(path: Path, at: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(size)
    except OSError:
        return b""


def _is_whole_row(row: bytes, block: int, size: int) -> bool:
    at = 0
    while at < size and len(row) == size:
        # The number too: a whole row in the place of another is as wrong as one whose bytes were changed.
        magic, _, number, _, checksum, length = HEADER.unpack_from(row, at)
        end = at + HEADER_BYTES + length
        if magic != MAGIC or number != block or end > size or zlib.crc32(row[at + HEADER_BYTES : end]) != checksum:
            return False
        at = end
    return at == size
