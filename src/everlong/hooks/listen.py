"""What each layer of a stock model hands over when one token stands at several positions.

The rows of one batch hold the same single token, each at a position of its own. With one token, attention returns
that token's value wherever it stands, so what a layer caches and asks with differs between the rows only by what
the model does with positions.

Letters: N positions, G kv heads, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

from everlong.cache.step import ForwardPlan
from everlong.errors import UnsupportedLayerError
from everlong.hooks.current_step import activate
from everlong.hooks.routes import AlibiMask, AttentionHook
from everlong.models.internals import accepts, decoder_of, device_of, text_config
from everlong.models.layout import LayerPlan, Pattern
from everlong.ops.spans import Ints
from everlong.ops.workspace import Workspace

HARMLESS = {"position_ids", "position_embeddings", "cache_position"}
"""What layers hand on to their attention that has no part in it."""


@dataclass(frozen=True)
class Heard:
    """By layer: keys and values [N, G, 1, D], and queries [N, H, 1, D] (none where the route keeps its own softmax)."""

    positions: Tensor
    cached: dict[int, tuple[Tensor, Tensor]]
    queries: dict[int, Tensor]
    key_heads: dict[int, int]
    """By layer: how many heads of keys its attention is given."""
    states: dict[int, LinearAttentionCacheLayerMixin]
    """By layer: what it keeps in a constant size, of N rows."""


class Recorder(DynamicCache):
    """Keeps what each layer hands over; says that it has seen `past` tokens, which it has not."""

    def __init__(self, config: Any, past: int = 0) -> None:
        super().__init__(config=config)
        self.past = past
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}
        self.given: dict[int, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Record, then store."""
        self.seen[layer_idx] = (key_states.detach().clone(), value_states.detach().clone())
        out = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        self.given[layer_idx] = out[0]
        return out

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """What the model takes for the number of tokens before."""
        return self.past + super().get_seq_length(layer_idx)


@dataclass(eq=False)
class Listening(ForwardPlan):
    """A step that keeps the queries; one token attends to itself alone, so its value is the answer."""

    recorder: Recorder = field(kw_only=True)
    queries: dict[int, Tensor] = field(default_factory=dict)
    key_heads: dict[int, int] = field(default_factory=dict)

    def layer_that_returned(self, k: Tensor) -> int | None:
        """The layer whose keys these are."""
        return next((i for i, given in self.recorder.given.items() if given is k), None)

    def check_call(self, layer: int, sliding: int | None, extra: Mapping[str, Any]) -> None:
        """UnsupportedLayerError for a layer that gives its attention tensors besides queries, keys and values."""
        if found := [name for name, x in extra.items() if isinstance(x, Tensor) and name not in HARMLESS]:
            raise UnsupportedLayerError(
                f"layer {layer}: its attention takes {', '.join(found)} besides queries, keys and values, which would "
                "be left out; use a model with plain softmax attention"
            )

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> Tensor:
        """The newest value, for each of the heads."""
        self.queries[layer] = q.detach().clone()
        self.key_heads[layer] = k.shape[1]
        return v[:, :, -1:].repeat_interleave(q.shape[1] // v.shape[1], 1).transpose(1, 2)


def listen(
    model: PreTrainedModel, route: AttentionHook, positions: Ints, past: int = 0, corner: tuple[int, ...] = ()
) -> Heard:
    """What each layer hands over for one token at `positions`, behind a cache that says it holds `past` tokens.

    `corner`: it stands so much further on each of these axes.
    """
    decoder = decoder_of(model)
    recorder = Recorder(model.config, past)
    at = torch.from_numpy(positions).to(device_of(model))[:, None]
    ids = torch.full_like(at, text_config(model).vocab_size // 2)
    axes = torch.tensor(corner, device=at.device)[:, None, None] + at if corner else at
    where = {"position_ids": axes} if accepts(decoder, "position_ids") else {}
    plans = {i: LayerPlan(i, i, Pattern()) for i in range(len(recorder.layers))}
    step = Listening(past, 1, len(at), 0, [], {}, plans, Workspace(), model.dtype, recorder=recorder)
    activate(step)
    try:
        with torch.no_grad(), nullcontext() if isinstance(route, AlibiMask) else route.entered(step):
            decoder(input_ids=ids, past_key_values=recorder, use_cache=True, **where)
    finally:
        activate(None)
    cached = {i: kv for i, kv in recorder.seen.items() if kv[0].shape[2] == 1}
    stateful = {i: x for i, x in enumerate(recorder.layers) if isinstance(x, LinearAttentionCacheLayerMixin)}
    return Heard(at[:, 0].cpu(), cached, step.queries, step.key_heads, stateful)
