"""A cache that has left the model's device, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor

from everlong.cache.state import load_stream, stream_state
from everlong.cache.stream import CachedStream
from everlong.methods.blocks.saved import StoredBlocks

if TYPE_CHECKING:
    from everlong.methods.blocks.memory import BlockMemory

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name and JSON-able values: all that is needed to go on."""


@dataclass(frozen=True)
class OffloadedCache:
    """What brings a stream's cache back: its state, or where that is, and the stores that its blocks are in.

    Stored blocks and their summaries stay where they lie, shared with forks as before.
    """

    load: Callable[[], State]
    stored: Sequence[StoredBlocks]
    seen_tokens: int

    @classmethod
    @torch.inference_mode()
    def of(cls, stream: CachedStream, load: Callable[[], State] | None = None) -> Self:
        """That of a stream, whose tensors may be freed then; without `load` its state is kept in host memory."""
        memory = cast("BlockMemory | None", stream.blocks)
        stored = () if memory is None else tuple(StoredBlocks.of(row) for row in memory.rows)
        if load is None:
            tensors, facts = stream_state(stream, sealed=False)
            state = {name: x.to("cpu") for name, x in tensors.items()}, facts

            def load() -> State:
                return state

        return cls(load, stored, stream.seen_tokens)

    @torch.inference_mode()
    def restore(self, stream: CachedStream, device: torch.device) -> None:
        """Let the stream become what it was; whatever it holds of an attempt that was interrupted is forgotten."""
        tensors, facts = self.load()
        stream.reset()
        load_stream(stream, tensors, facts, device, self.stored)
