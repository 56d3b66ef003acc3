"""Where sealed blocks lie on disk: append-only files of immutable, checksummed records, written behind the computation.

A record is a header of 64 bytes (what it holds, its length, its checksum) and what the codec made of one block of one
layer. A row is the records of all layers for one block; a file holds rows, and beside it the digests of the same
blocks. Rows of blocks that were given up are written over, once a checkpoint no longer names them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.errors import DamagedError
from everlong.ops.spans import Ints
from everlong.storage.base import KeptDigests, Traffic
from everlong.storage.codecs.base import Codec
from everlong.storage.extent import RowLayout, Volume, parts
from everlong.storage.kept import KeptStore
from everlong.storage.own_file import OwnFile
from everlong.storage.record_cache import RecordCache
from everlong.storage.stored_rows import StoredRows, digest_row_bytes


class DiskStore(KeptStore):
    """The blocks of one stream in files; numbers count from 0 and are written in order.

    `volumes` hold what is there already; the file of the last one takes more if `writable`, else more blocks stay in
    host memory. Other streams may share volumes. `commit` queues what was put for the writer; `flush` waits until it is
    on the disk. What was read stays in memory as long as `resident` has room.
    """

    name: ClassVar[str] = "disk"

    def __init__(self, volumes: list[Volume], writable: bool = True, dropped: frozenset[int] = frozenset()) -> None:
        self.volumes = volumes
        self.writable = writable
        self.dropped = dropped
        self.blocks = volumes[-1].end if volumes else 0
        self._resident = RecordCache()
        self.traffic = Traffic()
        self._gone = 0
        self._rows = StoredRows(volumes, RowLayout(), self.traffic)
        self.codecs = self._rows.layout.codecs
        self._staged: dict[int, Tensor] = {}
        self._own = OwnFile()
        self._family: weakref.WeakSet[DiskStore] = weakref.WeakSet([self])
        if writable:
            self.reuse()

    @property
    def resident(self) -> RecordCache:
        """Records that were read back, for as long as there is room for them."""
        return self._resident

    @property
    def row_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self._rows.layout.row_bytes

    def add(self, layer: int, codec: Codec) -> None:
        """Make room for a layer; all layers are added before the first block."""
        if layer in self.codecs:
            return
        self._rows.layout.add(layer, codec)
        self._resident.record_bytes = max(self._resident.record_bytes, codec.record_bytes)

    @property
    def disk_blocks(self) -> int:
        """How many blocks have a row on the disk, or on the way there."""
        return len(self._rows)

    def put(self, layer: int, first: int, k: Float[Tensor, "N G n D"], v: Float[Tensor, "N G n E"]) -> None:
        """Stage blocks; those that were staged under their numbers before, and not committed, are replaced."""
        for block, payload in enumerate(self.codecs[layer].encode(k, v).cpu(), first):
            if block not in self._staged:
                # A tensor that was made in inference mode could not be written outside of it.
                with torch.inference_mode(False):
                    self._staged[block] = torch.zeros(self.row_bytes, dtype=torch.uint8)
            self._rows.layout.put(self._staged[block], layer, block, k.shape[2], payload)

    def record(self, layer: int, block: int) -> UInt8[Tensor, " bytes"]:
        """A block's record; DamagedError if its bytes were changed. Good until the next one is asked for."""
        if block in self.dropped:
            raise DamagedError(f"block {block} of layer {layer} was dropped and can not come back; ask without it")
        # A row that is staged, or waits for the writer, is not yet where the file would be read.
        row = self._staged.get(block)
        row = self._own.waiting.get(block) if row is None else row
        record = self._resident.get((layer, block)) if row is None else self._rows.layout.record(row, layer)
        if record is not None:
            self.traffic.hits += 1
            return record[: self.codecs[layer].record_bytes]
        self.traffic.misses += 1
        room = self._resident.room((layer, block))
        try:
            return self._rows.read(layer, block, room)
        except BaseException:
            self._resident.discard((layer, block))
            raise

    def chosen(self, layer: int) -> None:
        """What stays in memory is weighed by how many choices ago it was used."""
        self._resident.chosen(layer)

    def prefetch(self, layer: int, blocks: Iterable[int]) -> None:
        """Let the system begin to read the records that are not in memory, while the model computes."""
        for block in blocks:
            here = block in self._staged or block in self._own.waiting or (layer, block) in self._resident
            if not here and block in self._rows:
                self._rows.expect(layer, block)

    def commit(self, blocks: int, digests: Callable[[int], Tensor]) -> None:
        """Keep the staged blocks below `blocks`, with `digests(block)`; forget other staged ones."""
        for block in sorted(n for n in self._staged if self.blocks <= n < blocks):
            row = self._staged.pop(block)
            self._own.waiting[block] = row
            if self.writable:
                summary = digests(block)
                self._own.write(self.volumes, block, row, summary)
                self.digest_bytes = summary.nbytes + 4
                self.traffic.written_bytes += row.nbytes + self.digest_bytes
            self.blocks = block + 1
        # What is left is of a step that was abandoned.
        self._staged.clear()
        self._own.take_back()

    def flush(self) -> None:
        """Wait until all that was committed is on the disk; SaveError if it cannot be."""
        self._own.flush()

    def without(self, gone: Ints, count: int) -> None:
        """Let these of the first `count` blocks be gone; their rows stay as they are until `reuse`."""
        if len(gone) == self._gone:
            return
        absent = set(gone.tolist())
        for block in absent.intersection(self._own.waiting) if not self.writable else ():
            del self._own.waiting[block]
        self._resident.without(absent)
        kept = [part for v in self.volumes for part in parts(v, gone)]
        # The last volume stays, though empty: it names the file that new rows go to.
        last = self.volumes[-1]
        if not kept or kept[-1].path != last.path or kept[-1].end < self.blocks:
            kept.append(Volume(last.path, self.blocks, self.blocks))
        self.volumes[:] = kept  # in place: `_rows` looks into the same list
        self._gone = len(gone)

    def reuse(self, taken: Iterable[int] = ()) -> None:
        """Use the places in this stream's own file that hold none of its blocks, nor those of others (`taken`).

        To be called when the last checkpoint names what `volumes` hold, so that a crash finds all that it named.
        """
        used = set(taken)
        own = self.volumes[-1].path if self.volumes else None
        # Forks in memory read this file too, and are in no database.
        for v in [v for store in self._family for v in store.volumes if v.path == own]:
            used.update(range(v.at, v.at + v.end - v.first))
        self._own.use_all_but(used)

    def kept_digests(self, numbers: dict[int, int], dtype: torch.dtype, bare: Collection[int]) -> KeptDigests:
        """Those in the files beside the blocks; DamagedError for a block that is lost, or whose digests are."""
        gone = self._rows.absent(self.blocks, self.dropped.union(bare))
        self.digest_bytes = digest_row_bytes(numbers, dtype)
        return KeptDigests(gone, self.blocks - len(gone), self._rows.digests(numbers, dtype, lambda: self.dropped))

    @property
    def nbytes(self) -> int:
        """Bytes of host memory: rows on their way to the disk, and records that stay resident."""
        rows = (*self._staged.values(), *list(self._own.waiting.values()))
        return sum(row.nbytes for row in rows) + self._resident.nbytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of this stream on the disk, rows that it shares and `other_bytes` (ids and state) included."""
        return self.disk_blocks * (self.row_bytes + self.digest_bytes) + self.other_bytes

    def host_bytes(self, blocks: int, record_bytes: int, row_bytes: int) -> int:
        """The rows that no file has, where none may be written; records that stay resident have what is left."""
        return 0 if self.writable else max(0, blocks - self.disk_blocks) * row_bytes

    def fork(self) -> DiskStore:
        """A store that reads the same blocks and cannot be written; a new volume makes it writable."""
        # The fork reads the files, and has no writer whose end it could wait for.
        self.flush()
        other = type(self)(list(self.volumes), writable=False, dropped=self.dropped)
        other.blocks, other._own.waiting = self.blocks, dict(self._own.waiting)
        other._rows.layout = self._rows.layout.copy()
        other.codecs = other._rows.layout.codecs
        other.digest_bytes = self.digest_bytes
        other._gone = self._gone
        other._family = self._family
        other._resident = self._resident.fresh()
        self._family.add(other)
        return other

    def close(self) -> None:
        """End the writer and close the files."""
        self._own.close()
        self._rows.close()
