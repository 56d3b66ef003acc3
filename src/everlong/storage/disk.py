"""Where sealed blocks lie on disk: append-only files of immutable, checksummed records, written behind the computation.

A record is a header of 64 bytes (what it holds, its length, its checksum) and what the codec made of one block of one
layer. A row is the records of all layers for one block; a file holds rows, and beside it the digests of the same
blocks. Rows of blocks that were given up are written over, once a checkpoint no longer names them. Records are read
with pread and not through a mapping: a file that was cut short is then an error to report and
not a signal that ends the process, and the pages that were read are never counted as memory of this process.
"""

from __future__ import annotations

import bisect
import os
import sys
import weakref
import zlib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.errors import CapabilityError, DamagedError, InputError
from everlong.ops.spans import Ints
from everlong.storage.base import KeptDigests, Traffic
from everlong.storage.codecs import Codec
from everlong.storage.extent import HEADER, HEADER_BYTES, MAGIC, Volume, check_digests_fit, digest_rows, parts
from everlong.storage.record_cache import Evict, Resident
from everlong.storage.write_behind import Writer


class DiskStore:
    """The blocks of one stream in files; numbers count from 0 and are written in order.

    `volumes` hold what is there already; the file of the last one takes more if `writable`, else more blocks stay in
    host memory. Other streams may share volumes. `commit` queues what was put for the writer; `flush` waits until it is
    on the disk. What was read stays in memory as long as `resident` has room.
    """

    lies_on_disk: ClassVar[bool] = True

    def __init__(self, volumes: list[Volume], writable: bool = True, dropped: frozenset[int] = frozenset()) -> None:
        self.volumes, self.writable, self.dropped = volumes, writable, dropped
        self.blocks = volumes[-1].end if volumes else 0
        self.resident, self.traffic = Resident(), Traffic()
        self.digest_bytes, self.other_bytes = 0, 0
        self._free: list[int] = []
        self._gone = 0
        self._codecs: dict[int, Codec] = {}
        self._offsets: dict[int, int] = {}
        self._row_bytes = 0
        self._staged: dict[int, Tensor] = {}
        self._waiting: dict[int, Tensor] = {}
        self._files: dict[Path, int] = {}
        self._writer: Writer | None = None
        self._family: weakref.WeakSet[DiskStore] = weakref.WeakSet([self])
        if writable:
            self.reuse()

    def add(self, layer: int, codec: Codec) -> None:
        """Make room for a layer; all layers are added before the first block."""
        if layer in self._codecs:
            return
        self._codecs[layer], self._offsets[layer] = codec, self._row_bytes
        self._row_bytes += HEADER_BYTES + codec.record_bytes
        self.resident.record_bytes = max(self.resident.record_bytes, codec.record_bytes)

    @property
    def row_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self._row_bytes

    @property
    def disk_blocks(self) -> int:
        """How many blocks have a row on the disk, or on the way there."""
        return sum(v.end - v.first for v in self.volumes)

    def put(self, layer: int, first: int, k: Float[Tensor, "N G n D"], v: Float[Tensor, "N G n E"]) -> None:
        """Stage blocks; those that were staged under their numbers before, and not committed, are replaced."""
        at, codec = self._offsets[layer], self._codecs[layer]
        for block, payload in enumerate(codec.encode(k, v).cpu(), first):
            if block not in self._staged:
                with torch.inference_mode(False):
                    self._staged[block] = torch.zeros(self._row_bytes, dtype=torch.uint8)
            record = self._staged[block][at : at + HEADER_BYTES + codec.record_bytes]
            record[HEADER_BYTES:] = payload
            header = HEADER.pack(MAGIC, layer, block, k.shape[2], zlib.crc32(payload.numpy().data), codec.record_bytes)
            record[: HEADER.size] = torch.frombuffer(bytearray(header), dtype=torch.uint8)

    def codec(self, layer: int) -> Codec:
        """What made the layer's records."""
        return self._codecs[layer]

    def record(self, layer: int, block: int) -> UInt8[Tensor, " bytes"]:
        """A block's record; DamagedError if its bytes were changed. Good until the next one is asked for."""
        at, size = self._offsets[layer], self._codecs[layer].record_bytes
        if block in self.dropped:
            raise DamagedError(f"block {block} of layer {layer} was dropped and can not come back; ask without it")
        row = self._staged.get(block)
        row = self._waiting.get(block) if row is None else row
        record = self.resident.get((layer, block)) if row is None else row[at + HEADER_BYTES :]
        if record is None:
            self.traffic.misses += 1
            return self._load(layer, block)
        self.traffic.hits += 1
        return record[:size]

    def _load(self, layer: int, block: int) -> Tensor:
        """A record from the disk, which stays resident if there is room."""
        record = self.resident.room((layer, block))
        try:
            return self._read(layer, block, record)
        except BaseException:
            self.resident.discard((layer, block))
            raise

    def _read(self, layer: int, block: int, record: Tensor | None) -> Tensor:
        """A record from the disk into `record` (None: a new tensor), checked."""
        size = self._codecs[layer].record_bytes
        with torch.inference_mode(False):
            record = torch.empty(size, dtype=torch.uint8) if record is None else record[:size]
        path, start = self._place(layer, block)
        header, payload = bytearray(HEADER_BYTES), record.numpy().data
        got = os.preadv(self._open(path), [header, payload], start)
        self.traffic.read_bytes += got
        where = f"{path}: block {block} of layer {layer}"
        if got < HEADER_BYTES + size:
            raise DamagedError(f"{where} is cut short; run `everlong sessions verify NAME --repair`")
        magic, got_layer, got_block, _, checksum, length = HEADER.unpack_from(header)
        if (magic, got_layer, got_block, length) != (MAGIC, layer, block, size) or zlib.crc32(payload) != checksum:
            raise DamagedError(f"{where} is not what was written; run `everlong sessions verify NAME --repair`")
        return record

    def _volume(self, block: int) -> Volume | None:
        """Where a block's row is on the disk; None if it is not."""
        at = bisect.bisect_right(self.volumes, block, key=lambda v: v.first) - 1
        return self.volumes[at] if at >= 0 and block < self.volumes[at].end else None

    def _place(self, layer: int, block: int) -> tuple[Path, int]:
        """The file of a record, and where in it the record begins."""
        volume = self._volume(block)
        assert volume is not None
        return volume.path, (volume.at + block - volume.first) * self._row_bytes + self._offsets[layer]

    def keep_at_hand(self, per_layer: int | None, evict: Evict, decay: float) -> None:
        """How many records of a layer stay in memory once they were read, and which of them leaves first."""
        self.resident.rule(per_layer, evict, decay)

    def limit_at_hand(self, limit: int) -> None:
        """Records that were read take at most `limit` bytes of memory from now on."""
        self.resident.shrink(limit)

    def chosen(self, layer: int) -> None:
        """What stays in memory is weighed by how many choices ago it was used."""
        self.resident.chosen(layer)

    def prefetch(self, layer: int, blocks: Iterable[int]) -> None:
        """Let the system begin to read the records that are not in memory, while the model computes."""
        if sys.platform != "linux":
            return
        size = HEADER_BYTES + self._codecs[layer].record_bytes
        for block in blocks:
            here = block in self._staged or block in self._waiting or (layer, block) in self.resident
            if not here and self._volume(block) is not None:
                path, start = self._place(layer, block)
                os.posix_fadvise(self._open(path), start, size, os.POSIX_FADV_WILLNEED)

    def _open(self, path: Path) -> int:
        if path not in self._files:
            try:
                self._files[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}; restore this file of the session's blocks") from error
        return self._files[path]

    def commit(self, blocks: int, digests: Callable[[int], Tensor]) -> None:
        """Keep the staged blocks below `blocks`, with `digests(block)`; forget other staged ones."""
        for block in sorted(n for n in self._staged if self.blocks <= n < blocks):
            row = self._staged.pop(block)
            self._waiting[block] = row
            if self.writable:
                self._write(block, row, digests(block))
            self.blocks = block + 1
        self._staged.clear()
        self._take_back()

    def _write(self, block: int, row: Tensor, digests: Tensor) -> None:
        """Queue a row for the next free place of this stream's own file."""
        last, place = self.volumes[-1], self._free[0]
        self._writer = self._writer or Writer(last.path)
        self._writer.write(block, place, row, digests)
        self._free[:] = self._free[1:] or [place + 1]
        follows = place == last.at + block - last.first
        if last.first == last.end or follows:
            self.volumes.pop()
        self.volumes.append(
            Volume(last.path, last.first, block + 1, last.at) if follows else Volume(last.path, block, block + 1, place)
        )
        self.digest_bytes = digests.nbytes + 4
        self.traffic.written_bytes += row.nbytes + self.digest_bytes

    def _take_back(self) -> None:
        """Let go of the rows that have been written."""
        for block in self._writer.finished() if self._writer is not None else ():
            self._waiting.pop(block, None)

    def flush(self) -> None:
        """Wait until all that was committed is on the disk; SaveError if it cannot be."""
        if self._writer is not None:
            self._writer.flush()
            self._take_back()

    def without(self, gone: Ints, count: int) -> None:
        """Let these of the first `count` blocks be gone; their rows stay as they are until `reuse`."""
        if len(gone) == self._gone:
            return
        absent = set(gone.tolist())
        for block in absent.intersection(self._waiting) if not self.writable else ():
            del self._waiting[block]
        self.resident.without(absent)
        kept = [part for v in self.volumes for part in parts(v, gone)]
        last = self.volumes[-1]
        if not kept or kept[-1].path != last.path or kept[-1].end < self.blocks:
            kept.append(Volume(last.path, self.blocks, self.blocks))
        self.volumes, self._gone = kept, len(gone)

    def reuse(self, taken: Iterable[int] = ()) -> None:
        """Use the places in this stream's own file that hold none of its blocks, nor those of others (`taken`).

        To be called when the last checkpoint names what `volumes` hold, so that a crash finds all that it named.
        """
        used = set(taken)
        own = self.volumes[-1].path if self.volumes else None
        for v in [v for store in self._family for v in store.volumes if v.path == own]:
            used.update(range(v.at, v.at + v.end - v.first))
        end = max(used, default=-1) + 1
        self._free = [*sorted(set(range(end)).difference(used)), end]

    def absent(self, bare: Collection[int] = ()) -> Ints:
        """The blocks that have no row: given up, or compacted away; DamagedError if neither dropped nor `bare`."""
        here = np.zeros(self.blocks, bool)
        for v in self.volumes:
            here[v.first : v.end] = True
        gone = np.flatnonzero(~here)
        if lost := sorted(set(gone.tolist()) - self.dropped - set(bare)):
            raise DamagedError(f"{self.volumes[-1].path.parent}: no file has block {lost[0]}; restore it from a copy")
        return gone

    def kept_digests(self, numbers: dict[int, int], dtype: torch.dtype, bare: Collection[int]) -> KeptDigests:
        """Those in the files beside the blocks; DamagedError for a block that is lost, or whose digests are."""
        gone = self.absent(bare)
        return KeptDigests(gone, self.blocks - len(gone), self.digests(numbers, dtype))

    def records(self, layer: int, blocks: int) -> UInt8[Tensor, "blocks bytes"]:
        """CapabilityError: they stay in the files."""
        raise CapabilityError(
            f"state: {blocks} blocks of layer {layer} lie in files, and no state of a cache holds them; keep the "
            "session by checkpoint(), or write it to one file by `everlong sessions export`"
        )

    def restore(self, layer: int, records: UInt8[Tensor, "blocks bytes"], gone: Ints) -> None:
        """CapabilityError: they come from the files."""
        raise CapabilityError(
            f"load_state: the state holds {len(records)} blocks of layer {layer}, which is taken by no store in "
            "files; load it into a session without a store"
        )

    def digests(self, numbers: dict[int, int], dtype: torch.dtype) -> dict[int, Callable[[], Tensor]]:
        """How to get the digests of the blocks that have a row, by layer: each gives [N, numbers[layer]], once.

        The files are opened and measured now; they are read and checked when a layer first asks: DamagedError. Digests
        of dropped blocks are zeros.
        """
        self.digest_bytes = width = sum(numbers.values()) * dtype.itemsize + 4
        volumes = [v for v in self.volumes if v.end > v.first]
        for v in volumes:
            check_digests_fit(self._open(v.digests), v, width, self.dropped)
        found: dict[int, Tensor] = {}

        def load(layer: int) -> Tensor:
            if layer not in found:
                found.update(self._digests(volumes, numbers, dtype, width))
            return found.pop(layer)

        return {layer: partial(load, layer) for layer in numbers}

    def _digests(
        self, volumes: list[Volume], numbers: dict[int, int], dtype: torch.dtype, width: int
    ) -> dict[int, Tensor]:
        """All of them, by layer."""
        total = sum(v.end - v.first for v in volumes)
        found = {layer: torch.empty(total, count, dtype=dtype) for layer, count in numbers.items()}
        done = 0
        for v in volumes:
            for rows in digest_rows(self._open(v.digests), v, width, self.dropped):
                values = torch.from_numpy(np.ascontiguousarray(rows[:, : width - 4])).view(dtype)
                for x, part in zip(found.values(), values.split(list(numbers.values()), 1), strict=True):
                    x[done : done + len(rows)] = part
                done += len(rows)
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of host memory: rows on their way to the disk, and records that stay resident."""
        rows = (*self._staged.values(), *list(self._waiting.values()))
        return sum(row.nbytes for row in rows) + self.resident.nbytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of this stream on the disk, rows that it shares and `other_bytes` (ids and state) included."""
        return self.disk_blocks * (self._row_bytes + self.digest_bytes) + self.other_bytes

    def fork(self) -> DiskStore:
        """A store that reads the same blocks and cannot be written; a new volume makes it writable."""
        self.flush()
        other = DiskStore(list(self.volumes), writable=False, dropped=self.dropped)
        other.blocks, other._waiting = self.blocks, dict(self._waiting)
        other._codecs, other._offsets, other._row_bytes = dict(self._codecs), dict(self._offsets), self._row_bytes
        other.digest_bytes, other._gone, other._family = self.digest_bytes, self._gone, self._family
        other.resident = self.resident.fresh()
        self._family.add(other)
        return other

    def close(self) -> None:
        """End the writer and close the files."""
        writer, self._writer = self._writer, None
        files, self._files = self._files, {}
        if writer is not None:
            writer.close()
        for descriptor in files.values():
            os.close(descriptor)
