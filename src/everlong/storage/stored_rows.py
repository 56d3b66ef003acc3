"""Rows of blocks in files: where each one is, read and checked, and the digests beside them.

They are read with pread and not through a mapping: a file that was cut short is then an error to report and not a
signal that ends the process, and the pages that were read are never counted as memory of this process.
"""

from __future__ import annotations

import bisect
import os
import sys
import zlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everlong.errors import DamagedError, InputError
from everlong.ops.spans import Ints
from everlong.storage.base import Traffic
from everlong.storage.extent import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    RowLayout,
    Volume,
    check_digests_fit,
    digest_rows,
)


class StoredRows:
    """The rows of the blocks in `volumes`, a list that its owner changes as rows are written and given up."""

    def __init__(self, volumes: list[Volume], layout: RowLayout, traffic: Traffic) -> None:
        self.volumes = volumes
        self.layout = layout
        self._traffic = traffic
        self._files: dict[Path, int] = {}

    def __len__(self) -> int:
        return sum(v.end - v.first for v in self.volumes)

    def __contains__(self, block: int) -> bool:
        return self._volume(block) is not None

    def read(self, layer: int, block: int, record: Tensor | None) -> Tensor:
        """A record, read into `record` (None: a new tensor) and checked."""
        size = self.layout.codecs[layer].record_bytes
        with torch.inference_mode(False):
            record = torch.empty(size, dtype=torch.uint8) if record is None else record[:size]
        path, start = self._place(layer, block)
        header = bytearray(HEADER_BYTES)
        payload = record.numpy().data
        got = os.preadv(self._open(path), [header, payload], start)
        self._traffic.read_bytes += got
        where = f"{path}: block {block} of layer {layer}"
        if got < HEADER_BYTES + size:
            raise DamagedError(f"{where} is cut short; run `everlong sessions verify NAME --repair`")
        magic, got_layer, got_block, _, checksum, length = HEADER.unpack_from(header)
        if (magic, got_layer, got_block, length) != (MAGIC, layer, block, size) or zlib.crc32(payload) != checksum:
            raise DamagedError(f"{where} is not what was written; run `everlong sessions verify NAME --repair`")
        return record

    def expect(self, layer: int, block: int) -> None:
        """Let the system begin to read a record."""
        if sys.platform == "linux":
            path, start = self._place(layer, block)
            size = HEADER_BYTES + self.layout.codecs[layer].record_bytes
            os.posix_fadvise(self._open(path), start, size, os.POSIX_FADV_WILLNEED)

    def _volume(self, block: int) -> Volume | None:
        """Where a block's row is on the disk; None if it is not."""
        at = bisect.bisect_right(self.volumes, block, key=lambda v: v.first) - 1
        return self.volumes[at] if at >= 0 and block < self.volumes[at].end else None

    def _place(self, layer: int, block: int) -> tuple[Path, int]:
        """The file of a record, and where in it the record begins."""
        volume = self._volume(block)
        assert volume is not None
        return volume.path, (volume.at + block - volume.first) * self.layout.row_bytes + self.layout.offsets[layer]

    def _open(self, path: Path) -> int:
        if path not in self._files:
            try:
                self._files[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}; restore this file of the session's blocks") from error
        return self._files[path]

    def absent(self, blocks: int, given_up: Collection[int]) -> Ints:
        """Those of the first `blocks` blocks that have no row; DamagedError for one that was not `given_up`."""
        here = np.zeros(blocks, bool)
        for v in self.volumes:
            here[v.first : v.end] = True
        gone = np.flatnonzero(~here)
        if lost := sorted(set(gone.tolist()).difference(given_up)):
            raise DamagedError(f"{self.volumes[-1].path.parent}: no file has block {lost[0]}; restore it from a copy")
        return gone

    def digests(
        self, numbers: dict[int, int], dtype: torch.dtype, dropped: Callable[[], Collection[int]]
    ) -> dict[int, Callable[[], Tensor]]:
        """How to get the digests of the blocks that have a row, by layer: each gives [N, numbers[layer]], once.

        The files are opened and measured now; they are read and checked when a layer first asks: DamagedError. Digests
        of `dropped` blocks are zeros.
        """
        width = digest_row_bytes(numbers, dtype)
        volumes = [v for v in self.volumes if v.end > v.first]
        for v in volumes:
            check_digests_fit(self._open(v.digests), v, width, dropped())
        found: dict[int, Tensor] = {}

        # A row of the file has the digests of all layers: they are read once, and each layer takes its own.
        def load(layer: int) -> Tensor:
            if layer not in found:
                found.update(self._digests(volumes, numbers, dtype, dropped()))
            return found.pop(layer)

        return {layer: partial(load, layer) for layer in numbers}

    def _digests(
        self, volumes: list[Volume], numbers: dict[int, int], dtype: torch.dtype, dropped: Collection[int]
    ) -> dict[int, Tensor]:
        """All of them, by layer."""
        width = digest_row_bytes(numbers, dtype)
        total = sum(v.end - v.first for v in volumes)
        found = {layer: torch.empty(total, count, dtype=dtype) for layer, count in numbers.items()}
        done = 0
        for v in volumes:
            for rows in digest_rows(self._open(v.digests), v, width, dropped):
                values = torch.from_numpy(np.ascontiguousarray(rows[:, : width - 4])).view(dtype)
                for x, part in zip(found.values(), values.split(list(numbers.values()), 1), strict=True):
                    x[done : done + len(rows)] = part
                done += len(rows)
        return found

    def close(self) -> None:
        """Close the files."""
        files = self._files
        self._files = {}
        for descriptor in files.values():
            os.close(descriptor)


def digest_row_bytes(numbers: dict[int, int], dtype: torch.dtype) -> int:
    """Bytes of the digests of one block, `numbers[layer]` values for each layer, with their checksum."""
    return sum(numbers.values()) * dtype.itemsize + 4
