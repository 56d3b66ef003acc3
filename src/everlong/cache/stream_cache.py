"""The transformers cache that holds a stream: `model.generate(past_key_values=cache)` and `Session` both use it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from everlong.cache.absent_layer import AbsentLayer
from everlong.cache.report import MemoryReport
from everlong.cache.stream import CachedStream
from everlong.cache.stream_memory import RetrievalMemory
from everlong.errors import CapabilityError


@runtime_checkable
class Holder(Protocol):
    """What keeps a model attached for as long as somebody holds it."""

    def hold(self) -> None:
        """One more needs it."""

    def release(self) -> None:
        """One fewer does."""


class StreamCache(Cache):
    """What transformers sees of `stream`: one stream, or a batch of streams of one length, in bounded memory.

    It is written only by forwards of the model that it was made for, while that model is attached. For inference: no
    gradient flows through it.
    """

    def __init__(self, stream: CachedStream, holder: Holder | None = None) -> None:
        self._holder = holder
        if holder is not None:
            holder.hold()
        self.stream = stream
        self.seems_empty = False
        """Whether it says, until the decoder begins, that nothing was read: what is new is then prepared by itself."""
        super().__init__(layers=layers_of(stream))

    # What transformers asks of a cache.

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Store the new keys and values [B, G, T, D] of a layer; returns its columns [B, G, M, D]."""
        step = self.stream.running or self.stream.step
        return step.write(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far; 0 in front of a forward for which it `seems_empty`."""
        return 0 if self.seems_empty and self.stream.running is None else self.stream.seen_tokens

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """(columns that `update` will return, 0)."""
        return self.stream.columns(query_length, layer_idx), 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No maximum."""
        return -1

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first forward."""
        return self.stream.rows or -1

    @property
    def is_compileable(self) -> bool:
        """Never."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back: see `CachedStream.is_whole`."""
        return self.stream.is_whole

    @property
    def is_sliding(self) -> list[bool]:
        """All False: native windows are applied here, not by transformers' masks."""
        return [False] * len(self.layers)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest -`tokens_to_remove` tokens (a number <= 0); CapabilityError if what came before is gone."""
        if tokens_to_remove > 0:
            raise CapabilityError(f"crop({tokens_to_remove}): give how many tokens to remove as a negative number")
        target = max(0, self.stream.seen_tokens + tokens_to_remove)
        if target < self.stream.seen_tokens:
            self.stream.crop(target)

    def reset(self) -> None:
        """Forget everything."""
        self.stream.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows in another order (beam search)."""
        self.stream.select_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        self.stream.select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        if self.stream.rows:
            self.stream.select_rows(torch.arange(self.stream.rows).repeat_interleave(repeats))

    # What else is asked of it.

    @property
    def blocks(self) -> RetrievalMemory | None:
        """The memory, if it brings back what it stores."""
        return self.stream.blocks

    def report(self) -> MemoryReport:
        """What the stream has seen, keeps and lost."""
        return self.stream.report()

    def fork(self) -> StreamCache:
        """An independent stream that goes on from here; costs one copy of what is kept."""
        return StreamCache(self.stream.fork(), self._holder)

    __copy__ = fork

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamCache:
        """A fork: tensors that two caches write are never shared, and the model is not copied."""
        return self.fork()

    def close(self) -> None:
        """Let go of the model; the last cache or handle to do so restores it. May be called twice."""
        if self._holder is not None:
            holder = self._holder
            self._holder = None
            holder.release()

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # Bound here, as the interpreter empties modules at its end; the model needs no restoring then.
        if not ending():
            self.close()


def layers_of(stream: CachedStream) -> list[Any]:
    """What transformers sees of each layer: its state, if it keeps one; keys go through the cache's own `update`."""
    attending = {p.index: stream.arenas[p.source] for p in stream.plan.layers}
    return [stream.states.get(i) or attending.get(i) or AbsentLayer() for i in range(stream.plan.depth)]
