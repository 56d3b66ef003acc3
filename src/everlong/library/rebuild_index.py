"""Digests that were lost or damaged, made again from the stored keys of their blocks."""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlong.errors import SaveError
from everlong.library import state_file as sealed
from everlong.library.catalog import Catalog, SessionRecord
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.index import Index
from everlong.methods.blocks.saved import DIGESTS
from everlong.storage.codecs.base import Codec, codec_class
from everlong.storage.extent import HEADER, HEADER_BYTES, Volume


class Rebuilder:
    """What a session's last state says of its layers: enough to read their keys and to make digests of them.

    The keys are as the codec kept them, so that the ranges of channels are those of what comes back. What the tokens of
    a block received in attention is not kept: with digest=mean the mean is that of all its keys.
    """

    def __init__(self, catalog: Catalog, entry: SessionRecord) -> None:
        assert entry.state is not None
        tensors, document = sealed.read(catalog.place(entry) / entry.state)
        memory = document["state"]["cache"]["memory"]
        self._dtype = DIGESTS[memory.get("digests", "float32")]
        self._row_bytes, self._layers = entry.row_bytes, memory["rows"][0]["layers"]
        method = entry.made_method()
        assert isinstance(method, BlockSettings)
        self._settings = method
        self._shapes = {int(n): self._codec(tensors, n) for n in sorted(self._layers, key=int)}

    def _codec(self, tensors: dict[str, Tensor], layer: str) -> Codec:
        k, v = (tensors[f"cache.row0.layer{layer}.tail_{x}"] for x in "kv")
        return codec_class(self._settings.codec)(k.shape[1], self._settings.block, k.shape[3], v.shape[3], k.dtype)

    def row(self, volume: Volume, block: int) -> bytes:
        """The digests of a block whose record is whole, with their checksum."""
        with volume.path.open("rb") as file:
            file.seek((volume.at + block - volume.first) * self._row_bytes)
            record = bytearray(file.read(self._row_bytes))
        body = torch.cat(list(self._digests(record))).view(torch.uint8).numpy().tobytes()
        return body + zlib.crc32(body).to_bytes(4, "little")

    def _digests(self, record: bytearray) -> Iterator[Tensor]:
        at = 0
        for layer, codec in self._shapes.items():
            tokens = HEADER.unpack_from(record, at)[3]
            start = at + HEADER_BYTES
            at = start + codec.record_bytes
            # Behind the tokens of a short block the codec has repeated the last one, which a digest must not count.
            keys = codec.decode(torch.frombuffer(record[start:at], dtype=torch.uint8))[0][:, :tokens]
            heads = self._layers[str(layer)]["heads"]
            index = Index(self._of_all(tokens), heads, codec.heads, codec.key_dim, self._dtype)
            index.put(0, keys[None], torch.zeros(1, heads, tokens))
            yield index.digests.row(0)

    def _of_all(self, tokens: int) -> Any:
        settings: Any = self._settings
        return settings if settings.digest == "bounds" else dataclasses.replace(settings, repr_topk=tokens)


def rebuild(catalog: Catalog, entry: SessionRecord, blocks: Iterable[int]) -> None:
    """Write the digests of these blocks, whose records are whole, anew; SaveError where that fails."""
    rebuilder = Rebuilder(catalog, entry)
    wanted = set(blocks)
    for volume in catalog.volumes(entry):
        for block in sorted(wanted.intersection(range(volume.first, volume.end))):
            row = rebuilder.row(volume, block)
            _write(volume.digests, row, (volume.at + block - volume.first) * len(row))


def _write(path: Path, row: bytes, at: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.seek(at)
            file.write(row)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SaveError(f"{path}: {error.strerror or error}; make room, or make it writable, and try again") from error
