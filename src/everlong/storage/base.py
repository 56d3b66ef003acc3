"""Where sealed blocks lie: what a store offers, and the one in host memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.ops.spans import Ints
from everlong.storage.codecs.base import Codec
from everlong.storage.growable_rows import GrowableRows, allocated_rows
from everlong.storage.known import STORES
from everlong.storage.record_cache import RecordCache

FIRST_SLAB = 4
LARGEST_SLAB = 16


@dataclass
class Traffic:
    """What a store read and wrote since it was opened: bytes on the disk, and records found in memory or not."""

    read_bytes: int = 0
    written_bytes: int = 0
    hits: int = 0
    misses: int = 0


@dataclass(frozen=True)
class KeptDigests:
    """The digests that a store keeps: `loads` gives those of the `rows` blocks that are not `gone`, by layer, once."""

    gone: Ints
    rows: int
    loads: dict[int, Callable[[], Tensor]]


class Store(ABC):
    """The blocks of one stream, layer by layer; numbers count from 0 and are written in order.

    All that is asked of a store stands here, and for those of kept sessions in storage/kept.py. A subclass with a
    `name` of its own is registered under it, and made without arguments.
    """

    name: ClassVar[str] = ""
    lies_on_disk: ClassVar[bool] = False
    """Whether blocks are in files, and only what is on its way there and what was read back in memory."""
    writable: bool = True
    """Whether it keeps what is committed for good where its blocks lie."""
    codecs: dict[int, Codec]
    """What makes the records of each layer."""
    traffic: Traffic
    """What was read and written."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        STORES.add(cls)

    @abstractmethod
    def add(self, layer: int, codec: Codec) -> None:
        """Make room for a layer; all layers are added before the first block."""

    @abstractmethod
    def put(self, layer: int, first: int, k: Tensor, v: Tensor) -> None:
        """Store the blocks from `first` on: keys [N, G, n, D] and values [N, G, n, E] of n <= L tokens in each.

        What was not committed is replaced.
        """

    @abstractmethod
    def record(self, layer: int, block: int) -> Tensor:
        """A block's record in host memory, uint8 [bytes]; good until the next one is asked for."""

    @abstractmethod
    def without(self, gone: Ints, count: int) -> None:
        """Let these of the first `count` blocks be gone, ascending, those that already were included."""

    @abstractmethod
    def commit(self, blocks: int, digests: Callable[[int], Tensor]) -> None:
        """Keep the blocks below `blocks`, with `digests(block)`, and forget others that were put."""

    @abstractmethod
    def fork(self) -> Store:
        """A store with the same blocks, sharing them."""

    @abstractmethod
    def records(self, layer: int, blocks: int) -> UInt8[Tensor, "blocks bytes"]:
        """Those of the first `blocks` records of a layer that are here in one tensor, to be saved.

        CapabilityError where they stay in files.
        """

    @abstractmethod
    def restore(self, layer: int, records: UInt8[Tensor, "blocks bytes"], gone: Ints) -> None:
        """Take saved records, those that are `gone` left out; for an empty store, and as `records`."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of host memory."""

    @abstractmethod
    def host_bytes(self, blocks: int, record_bytes: int, row_bytes: int) -> int:
        """Bytes of host memory that so many blocks take at most, but for what is queued for the disk.

        The records of a block take `record_bytes` over all layers, a row of them in a file `row_bytes`.
        """

    # What only a store in files has a use for.

    @property
    def resident(self) -> RecordCache | None:
        """Records that stay in memory once they were read; None: all are in memory."""
        return None

    def chosen(self, layer: int) -> None:  # noqa: B027 (in memory nothing follows from it)
        """Take note that a layer has chosen anew."""

    def prefetch(self, layer: int, blocks: Iterable[int]) -> None:  # noqa: B027 (in memory there is nothing to do)
        """Begin to read blocks that will be asked for next."""

    def kept_digests(self, numbers: dict[int, int], dtype: torch.dtype, bare: Collection[int]) -> KeptDigests | None:
        """The digests of `numbers[layer]` values that it keeps with its blocks; None: a saved state has them.

        DamagedError for a block without a row that was neither dropped nor `bare`.
        """
        return None

    @property
    def disk_blocks(self) -> int:
        """How many blocks have a row on the disk, or on the way there."""
        return 0

    @property
    def disk_bytes(self) -> int:
        """Bytes on the disk."""
        return 0


def stored(
    store: Store, layer: int, blocks: Sequence[int], device: torch.device
) -> tuple[Float[Tensor, "N G L D"], Float[Tensor, "N G L E"]]:
    """Keys and values of stored blocks, as they come out of the codec; what lies behind a block's tokens means nothing.

    Records cross to the device as they are kept, which is less than what comes out.
    """
    codec = store.codecs[layer]
    records = torch.empty(len(blocks), codec.record_bytes, dtype=torch.uint8)
    for into, block in zip(records, blocks, strict=True):
        into.copy_(store.record(layer, block))
    return codec.decode(records.to(device))


class HostStore(Store):
    """Records in host memory."""

    name: ClassVar[str] = "host"

    def __init__(self) -> None:
        self.codecs = {}
        self.traffic = Traffic()
        self._records: dict[int, GrowableRows] = {}

    def add(self, layer: int, codec: Codec) -> None:
        """Make room for a layer."""
        self.codecs[layer] = codec
        self._records[layer] = GrowableRows(codec.record_bytes, torch.uint8, FIRST_SLAB, LARGEST_SLAB)

    def put(self, layer: int, first: int, k: Float[Tensor, "N G n D"], v: Float[Tensor, "N G n E"]) -> None:
        """Store blocks; those that were stored under their numbers before, and not committed, are replaced."""
        for block, record in enumerate(self.codecs[layer].encode(k, v).cpu(), first):
            self._records[layer].room(block).copy_(record)

    def record(self, layer: int, block: int) -> UInt8[Tensor, " bytes"]:
        """A block's record."""
        self.traffic.hits += 1
        return self._records[layer].row(block)

    def without(self, gone: Ints, count: int) -> None:
        """Let these of the first `count` blocks be gone, ascending; their memory is used for those to come."""
        for slabs in self._records.values():
            slabs.without(gone, count)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slabs.nbytes for slabs in self._records.values())

    def commit(self, blocks: int, digests: Callable[[int], Tensor]) -> None:
        """Nothing: memory is written at once."""

    def fork(self) -> HostStore:
        """A store with the same blocks, sharing their memory."""
        other = type(self)()
        other.codecs = dict(self.codecs)
        other._records = {layer: slabs.fork() for layer, slabs in self._records.items()}
        return other

    def records(self, layer: int, blocks: int) -> UInt8[Tensor, "blocks bytes"]:
        """Those of the first `blocks` records of a layer that are here in one tensor, to be saved."""
        return self._records[layer].joined(blocks)

    def restore(self, layer: int, records: UInt8[Tensor, "blocks bytes"], gone: Ints) -> None:
        """Take saved records, those that are `gone` left out; for an empty store."""
        self._records[layer].restore(records, gone)

    def host_bytes(self, blocks: int, record_bytes: int, row_bytes: int) -> int:
        """The records, and the free rows behind them."""
        return allocated_rows(blocks, FIRST_SLAB, LARGEST_SLAB) * record_bytes
