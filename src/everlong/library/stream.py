"""What the library asks of a stream that it keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.methods.base import Method
    from everlong.methods.blocks.memory import BlockMemory
    from everlong.methods.blocks.pins import Pin
    from everlong.text.transcript import Transcript


class KeptStream(Protocol):
    """A stream with its model, its method and what it has read."""

    model: Any
    tokenizer: Any
    name: str
    origin: Any
    identity: dict[str, str | None] | None
    method: Method
    transcript: Transcript

    @property
    def conversing(self) -> bool:
        """Whether what was read ends with a conversation."""
        ...

    @property
    def pins(self) -> tuple[Pin, ...]:
        """The spans that are pinned, in their order in the stream."""
        ...

    def stored(self, what: str) -> BlockMemory:
        """The block memory; CapabilityError, naming `what` was wanted, for a method that stores nothing."""
        ...

    def drop_blocks(self, blocks: Iterable[int]) -> None:
        """Let these stored blocks never come back."""
        ...

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON-able values): all that the stream needs to go on; not `sealed`: without what a store keeps."""
        ...

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Go on from such a state."""
        ...
