"""One forward over new tokens of many streams, packed into one row; each layer's attention takes each stream apart.

Nothing is padded, and the streams may differ in length, method and number of new tokens: linear layers see one row of
tokens, positions are given for each token, and attention is that of each stream alone.

Letters: T new tokens of all streams together, n of one stream, G kv heads, H query heads, D and E head dims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from everlong.cache.step import ForwardPlan
from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import layers_of
from everlong.errors import CapabilityError


class PackedPlan:
    """The steps of several streams as one: what a layer's attention asks of a ForwardPlan, stream by stream."""

    def __init__(self, steps: Sequence[ForwardPlan]) -> None:
        self.steps = list(steps)
        self.plans = self.steps[0].plans
        self.calls: dict[int, int] = {}
        self.inputs = _SplitInputs(self)
        self._new: dict[int, Tensor] = {}
        self._columns: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def each(self) -> Iterator[tuple[ForwardPlan, slice]]:
        """The steps, each with the places of its new tokens in the row."""
        ends = accumulate((step.tokens for step in self.steps), initial=0)
        for step, (first, end) in zip(self.steps, pairwise(ends), strict=True):
            yield step, slice(first, end)

    def positions(self, device: torch.device) -> Int[Tensor, "1 T"]:
        """The position of each token in its own stream's frame."""
        own = [torch.arange(s.seen - s.base, s.seen - s.base + s.tokens) for s in self.steps]
        return torch.cat(own)[None].to(device)

    def write(self, k: Float[Tensor, "1 G T D"], v: Float[Tensor, "1 G T E"], layer: int) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer, each in its stream; the model goes on with the new ones."""
        self._columns[layer] = [step.write(k[:, :, at], v[:, :, at], layer) for step, at in self.each()]
        self._new[layer] = k
        return k, v

    def take_added(self, layer: int) -> Tensor | None:
        """What the streams' memories add to the output of a layer's attention, side by side; given once."""
        found = [(step.take_added(layer), step.tokens) for step in self.steps]
        like = next((x for x, _ in found if x is not None), None)
        if like is None:
            return None
        return torch.cat([like.new_zeros(1, n, like.shape[2]) if x is None else x for x, n in found], 1)

    def check_call(self, layer: int, sliding: int | None, extra: Mapping[str, Any]) -> None:
        """As ForwardPlan does."""
        self.steps[0].check_call(layer, sliding, extra)

    def layer_that_returned(self, k: Tensor) -> int | None:
        """The layer whose `write` in this step returned this very tensor."""
        return next((layer for layer, new in self._new.items() if new is k), None)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> Float[Tensor, "1 T H E"]:
        """Attention output of a layer: each stream's queries over its own columns."""
        source = self.plans[layer].source
        if k is not self._new.get(source):
            raise CapabilityError(f"layer {layer}: changes its keys behind the cache; read the streams one by one")
        self.calls[layer] = self.calls.get(layer, 0) + 1
        found = []
        for (step, at), (own_k, own_v) in zip(self.each(), self._columns[source], strict=True):
            found.append(step.attend(layer, q[:, :, at], own_k, own_v, scale, softcap, s_aux))
        return torch.cat(found, 1)


class _SplitInputs(dict[int, Tensor]):
    """What enters a layer's attention, handed to each stream's step."""

    def __init__(self, packed: PackedPlan) -> None:
        super().__init__()
        self._packed = packed

    def __setitem__(self, layer: int, entering: Tensor) -> None:
        for step, at in self._packed.each():
            step.inputs[layer] = entering[:, at]


class PackedCache(Cache):
    """What transformers sees of streams that read `tokens` new tokens each in one forward; for that forward alone."""

    def __init__(self, streams: Sequence[CachedStream], tokens: Sequence[int]) -> None:
        self.streams = list(streams)
        self.tokens = list(tokens)
        self._step: PackedPlan | None = None
        super().__init__(layers=layers_of(self.streams[0]))

    def begin(self) -> PackedPlan:
        """Prepare the forward; where a stream refuses, none has begun."""
        try:
            steps = [stream.begin(n) for stream, n in zip(self.streams, self.tokens, strict=True)]
        except BaseException:
            self.abandon()
            raise
        self._step = PackedPlan(steps)
        return self._step

    def commit(self) -> None:
        """Make the forward part of each stream."""
        for stream in self.streams:
            stream.commit()
        self._step = None

    def abandon(self) -> None:
        """Forget a forward that failed; streams that it was committed to keep it."""
        for stream in self.streams:
            stream.abandon()
        self._step = None

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Store the new keys and values of a layer; returns them."""
        assert self._step is not None
        return self._step.write(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: each stream counts its own tokens."""
        return 0

    get_query_offset = get_seq_length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As of a forward without a past: no mask is made."""
        return query_length, 0

    @property
    def is_compileable(self) -> bool:
        """Never."""
        return False

    @property
    def is_sliding(self) -> list[bool]:
        """All False: native windows are applied here, not by transformers' masks."""
        return [False] * len(self.layers)
