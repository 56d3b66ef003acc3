"""What a cache asks of the memory that takes the tokens which leave its window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.step import FarAttention, ForwardPlan
from everlong.cache.window import WindowLayout
from everlong.models.layout import Pattern
from everlong.ops.spans import Ints
from everlong.storage.base import Traffic


@dataclass(frozen=True)
class MemoryAccount:
    """What a memory holds of the tokens that left the window: bytes by tier, counts in tokens, what was moved.

    Of the dropped ones nothing is left; the compressed ones are there only as a part of a memory of constant size;
    the last step attended to the retrieved ones; of those as ids nothing else is kept.
    """

    bytes: dict[str, int]
    dropped_tokens: int = 0
    compressed_tokens: int = 0
    retrieved_tokens: int = 0
    ids_tokens: int = 0
    traffic: Traffic = field(default_factory=Traffic)


@runtime_checkable
class StreamMemory(FarAttention, Protocol):
    """A step begins, attends layer by layer, and is committed or abandoned; `layers` are those that it serves."""

    retrieves: ClassVar[bool]
    """Whether it brings back tokens that it stored: it is a RetrievalMemory then."""
    keeps_inputs: bool
    """Whether it needs what enters the attention of each layer (`ForwardPlan.inputs`)."""

    def lane(self, pattern: Pattern, chunk: int) -> WindowLayout:
        """How the arenas of layers with this native pattern are laid out."""
        ...

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError where a forward over `tokens` new tokens behind `seen` lacks what it needs."""
        ...

    def begin(self, step: ForwardPlan, pads: Ints | None) -> None:
        """Prepare a step."""
        ...

    def commit(self) -> None:
        """Make the step's changes part of the stream."""
        ...

    def abandon(self) -> None:
        """Forget a step that failed."""
        ...

    def check_crop(self, seen: int, target: int, pads: Ints | None) -> None:
        """CapabilityError where the newest tokens, from `target` to `seen`, can not be taken back."""
        ...

    def account(self, seen: int) -> MemoryAccount:
        """What it holds of `seen` tokens."""
        ...

    def planned_bytes(self, chunk: int) -> int:
        """Bytes on the model's device that one row takes at most, beside the arenas."""
        ...

    def fresh(self) -> StreamMemory:
        """A memory of the same model and settings that holds nothing."""
        ...

    def fork(self, rows: list[int] | None = None) -> StreamMemory:
        """An independent memory of the same rows, or of `rows` in this order."""
        ...

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON-able facts): all that is needed to go on; not `sealed`: without what a store keeps."""
        ...

    def restored(self, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device) -> StreamMemory:
        """A memory of the same settings with this state."""
        ...


class RetrievalMemory(StreamMemory, Protocol):
    """A memory that stores tokens and brings some of them back."""

    answering: bool

    def restored(
        self, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device, stored: Sequence[Any] = ()
    ) -> StreamMemory:
        """A memory of the same settings with this state; `stored`: what each offloaded row has kept of its store."""
        ...

    """Whether the next tokens answer: each then chooses for itself what comes back."""

    def pending_keys(self, layer: int, first: int, end: int) -> tuple[int, Float[Tensor, "G n D"] | None]:
        """(tokens that left the window, keys of those of the tokens `first` .. `end` - 1 among them, not rotated)."""
        ...
