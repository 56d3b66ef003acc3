"""What is asked of the store of a kept session, beside what is asked of every store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from jaxtyping import UInt8
from torch import Tensor

from everlong.errors import CapabilityError, ConfigError
from everlong.ops.spans import Ints
from everlong.storage.base import Store
from everlong.storage.extent import Volume
from everlong.storage.known import STORES


class KeptStore(Store):
    """The blocks of one stream in files, made as `cls(volumes, writable, dropped)`.

    `volumes` say which rows of which files are there already (storage/extent.py says what they look like); the file of
    the last one takes more if `writable`. `dropped` blocks can not come back. `everlong sessions verify`, `compact` and
    `export` read the same files by themselves.
    """

    lies_on_disk: ClassVar[bool] = True
    volumes: list[Volume]
    """Where the rows of the stream's blocks are, those on their way there included."""
    dropped: frozenset[int]
    blocks: int = 0
    """Blocks that were committed, those that were given up since included."""
    digest_bytes: int = 0
    """Bytes of the digests of one block, with their checksum; 0 before the first."""
    other_bytes: int = 0
    """Bytes of the session beside its blocks, which `disk_bytes` counts too."""

    @abstractmethod
    def __init__(self, volumes: list[Volume], writable: bool = True, dropped: frozenset[int] = frozenset()) -> None:
        """Take what is there already."""

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes of one block over all layers."""

    @abstractmethod
    def flush(self) -> None:
        """Wait until all that was committed is on the disk; SaveError if it cannot be."""

    @abstractmethod
    def reuse(self, taken: Iterable[int] = ()) -> None:
        """Use the places in the stream's own file that hold none of its blocks, nor those of others (`taken`)."""

    @abstractmethod
    def close(self) -> None:
        """End what runs beside, and close the files."""

    def records(self, layer: int, blocks: int) -> UInt8[Tensor, "blocks bytes"]:
        """CapabilityError: they stay in the files."""
        raise CapabilityError(
            f"state: {blocks} blocks of layer {layer} lie in files, and no state of a cache holds them; keep the "
            "session by checkpoint(), or write it to one file by `everlong sessions export`"
        )

    def restore(self, layer: int, records: UInt8[Tensor, "blocks bytes"], gone: Ints) -> None:
        """CapabilityError: they come from the files."""
        raise CapabilityError(
            f"load_state: the state holds {len(records)} blocks of layer {layer}, and a store in files takes none "
            "from a state; load it into a session without a store"
        )


def kept_store(name: str) -> type[KeptStore]:
    """The store `name`; ConfigError for one that keeps nothing in files."""
    cls = STORES.find(name)
    if not issubclass(cls, KeptStore):
        raise ConfigError(
            f"stored_in={name}: keeps no blocks in files, as a kept session needs; leave it out, or keep no session"
        )
    return cls
