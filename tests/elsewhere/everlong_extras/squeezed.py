"""squeezed: records in host memory, compressed by zlib."""

import zlib

import torch

from everlong.storage.base import Store, Traffic


class Squeezed(Store):
    """Compressed records by layer and block; forks share the bytes."""

    name = "squeezed"

    def __init__(self):
        self.codecs = {}
        self.traffic = Traffic()
        self._records = {}

    def add(self, layer, codec):
        """Nothing to be made room for."""
        self.codecs[layer] = codec

    def put(self, layer, first, k, v):
        """Compress the records of these blocks."""
        for block, record in enumerate(self.codecs[layer].encode(k, v).cpu(), first):
            self._records[layer, block] = zlib.compress(record.numpy().tobytes())

    def record(self, layer, block):
        """A record, expanded."""
        self.traffic.hits += 1
        return torch.frombuffer(bytearray(zlib.decompress(self._records[layer, block])), dtype=torch.uint8)

    def commit(self, blocks, digests):
        """Forget what was put beyond these blocks."""
        self._records = {at: data for at, data in self._records.items() if at[1] < blocks}

    def without(self, gone, count):
        """Forget these blocks."""
        absent = set(gone.tolist())
        self._records = {at: data for at, data in self._records.items() if at[1] not in absent}

    def fork(self):
        """The same blocks."""
        other = Squeezed()
        other.codecs = dict(self.codecs)
        other._records = dict(self._records)
        return other

    def records(self, layer, blocks):
        """Those of the first blocks that are here, expanded."""
        here = [n for n in range(blocks) if (layer, n) in self._records]
        empty = torch.empty(0, self.codecs[layer].record_bytes, dtype=torch.uint8)
        return torch.cat([empty, *(self.record(layer, n)[None] for n in here)])

    def restore(self, layer, records, gone):
        """Compress saved records again."""
        absent = set(gone.tolist())
        here = (n for n in range(len(records) + len(absent)) if n not in absent)
        for block, record in zip(here, records, strict=False):
            self._records[layer, block] = zlib.compress(record.numpy().tobytes())

    @property
    def nbytes(self):
        """Bytes of the compressed records."""
        return sum(map(len, self._records.values()))

    def host_bytes(self, blocks, record_bytes, row_bytes):
        """What zlib makes of random bytes is hardly longer than they are."""
        return blocks * (record_bytes + record_bytes // 1000 + 64 * max(1, len(self.codecs)))
