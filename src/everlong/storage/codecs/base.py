"""What a codec is: how a block of keys and values becomes a record of bytes, and back, whatever store it lies in.

Letters: N blocks, G kv heads, L tokens per block, D head dim of keys, E head dim of values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.storage.known import CODECS

ALIGNMENT = 64


@dataclass(frozen=True)
class Codec(ABC):
    """Encodes blocks of one layer: keys [G, L, D] and values [G, L, E] of `dtype`.

    A record is a row of fields, which a subclass names, fills and reads; each begins at a multiple of 16 bytes. What
    `fields` gives depends on the shape alone, and is written into files: a codec that changes it needs a new name. A
    subclass with a `name` of its own is registered under it.
    """

    name: ClassVar[str] = ""
    heads: int
    tokens: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        CODECS.add(cls)

    @abstractmethod
    def fields(self) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each field of a record, in order."""

    @abstractmethod
    def fill(self, fields: Sequence[Tensor], k: Float[Tensor, "N G L D"], v: Float[Tensor, "N G L E"]) -> None:
        """Write whole blocks into the fields of their records, [N, *shape] each."""

    @abstractmethod
    def restored(self, fields: Sequence[Tensor]) -> tuple[Float[Tensor, "*N G L D"], Float[Tensor, "*N G L E"]]:
        """Keys and values in `dtype` from the fields of their records, [*N, *shape] each."""

    @property
    def record_bytes(self) -> int:
        """Bytes of one record, a multiple of 64."""
        size = sum(_padded(math.prod(shape) * dtype.itemsize) for shape, dtype in self.fields())
        return -(-size // ALIGNMENT) * ALIGNMENT

    def encode(self, k: Float[Tensor, "N G n D"], v: Float[Tensor, "N G n E"]) -> UInt8[Tensor, "N bytes"]:
        """Records of blocks, where these lie; behind n < L tokens the last is repeated, which leaves each range."""
        records = torch.zeros(len(k), self.record_bytes, dtype=torch.uint8, device=k.device)
        if k.shape[2] < self.tokens:
            k, v = (torch.cat((x, x[:, :, -1:].expand(-1, -1, self.tokens - x.shape[2], -1)), 2) for x in (k, v))
        self.fill(self._views(records), k, v)
        return records

    def decode(self, records: UInt8[Tensor, "*N bytes"]) -> tuple[Float[Tensor, "*N G L D"], Float[Tensor, "*N G L E"]]:
        """Keys and values of a record or of several; views of them where they store `dtype` itself."""
        return self.restored(self._views(records))

    def _views(self, records: Tensor) -> list[Tensor]:
        """The fields of records, as views."""
        views = []
        at = 0
        for shape, dtype in self.fields():
            size = math.prod(shape) * dtype.itemsize
            views.append(records[..., at : at + size].view(dtype).unflatten(-1, shape))
            at += _padded(size)
        return views


def _padded(size: int) -> int:
    return -(-size // 16) * 16


codec_names = CODECS.names
codec_class = CODECS.find
