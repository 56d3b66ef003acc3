"""What a cache asks of the memory that takes the tokens which leave its window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.memory.lane import Lane
from everlong.memory.plan import LayerPlan, Pattern
from everlong.ops.spans import Ints

if TYPE_CHECKING:
    from everlong.memory.step import Step


@runtime_checkable
class StreamMemory(Protocol):
    """A step begins, attends layer by layer, and is committed or abandoned; `layers` are those that it serves."""

    layers: set[int]

    def lane(self, pattern: Pattern, chunk: int) -> Lane:
        """How the arenas of layers with this native pattern are laid out."""
        ...

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError where a forward over `tokens` new tokens behind `seen` lacks what it needs."""
        ...

    def begin(self, step: Step, pads: Ints | None) -> None:
        """Prepare a step."""
        ...

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """Attention of a layer over its columns `k`, `v` [B, G, M, D] and what the memory brings."""
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

    def dropped_tokens(self, seen: int) -> int:
        """How many of the `seen` tokens can not be seen any more, and left nothing."""
        ...

    def compressed_tokens(self, seen: int) -> int:
        """How many of the `seen` tokens are there only as a part of a memory of constant size."""
        ...

    def bytes(self) -> dict[str, int]:
        """Bytes allocated by tier."""
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
