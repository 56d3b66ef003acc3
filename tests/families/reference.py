"""A slow reference of what a window does to any model: its own forward over the whole stream, all at once.

Layers of attention see the sinks and the newest tokens alone, by a dense mask in float64; whatever else the model has
(linear attention, SSM, short convolutions) has seen everything, as nothing is cached.

Letters: B rows, H query heads, G kv heads, T tokens, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from everlong.models.internals import configs_of, decoder_of
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.rotary import turn_by, turned

NAME = "windowed-reference"
_WINDOWED: list[tuple[ModelLayout, int, int, Any, Iterator[LayerPlan]]] = []
"""The plan, sinks and window that are asked for, by how much each token's window moves up to the sinks, and the layers
still to come (where modules do not know their own).
"""


@torch.no_grad()
def windowed(
    model: PreTrainedModel,
    plan: ModelLayout,
    ids: Tensor,
    sinks: int,
    window: int,
    planes: Tensor | None = None,
    **extra: Tensor,
) -> Tensor:
    """Logits [B, T, vocabulary] of a model whose attention goes through transformers' attention function.

    `planes` [3, T] say where tokens stand, if there are images among them; `extra` is what the model is given of them.
    """
    t = np.arange(ids.shape[1])
    first = np.maximum(t - window + 1, sinks)
    if planes is None:
        up = first - sinks
    else:
        least = planes.min(0).values.tolist()
        places = np.array([min(least[i:]) for i in range(len(least))])
        up = places[first.clip(max=len(t) - 1)] - places[min(sinks, len(t) - 1)]
    with _named(decoder_of(model)):
        _WINDOWED.append((plan, sinks, window, up, iter(plan.layers)))
        try:
            return model(input_ids=ids, use_cache=False, **extra).logits
        finally:
            _WINDOWED.pop()


@contextmanager
def _named(model: nn.Module) -> Iterator[None]:
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    configs = configs_of(model)
    before = [c._attn_implementation for c in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    plan, sinks, window, up, coming = _WINDOWED[-1]
    following = next(coming)
    layer = plan.by_index.get(module.layer_idx, following)
    T = query.shape[2]
    t = np.arange(T)
    place = np.minimum(t, sinks + window - 1)
    q, k, v = (x.double() for x in (query, key, value))
    if layer.temperature is not None:
        q = q * torch.from_numpy(layer.temperature.scale(place) / layer.temperature.scale(t))[:, None]
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    near, far = (torch.from_numpy(x) for x in _seen(plan.by_index[layer.source], t, place, sinks, window))
    moved = q
    if layer.rotation is not None:
        moved = turned(q, layer.rotation, turn_by(layer.rotation, torch.from_numpy(-up), q))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.where(far, moved @ k.mT, q @ k.mT) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~(near | far), -torch.inf)
    if s_aux is not None:
        own = s_aux.double().reshape(1, -1, 1, 1).expand(len(q), -1, T, 1)
        scores = torch.cat([scores, own], -1)
    weights = scores.softmax(-1)[..., :T]
    return (weights @ v).transpose(1, 2).to(query.dtype).contiguous(), None


def _seen(layer: LayerPlan, t: Any, place: Any, sinks: int, window: int) -> tuple[Any, Any]:
    """Which earlier tokens [T, T] each token sees in its window, and which as sinks."""
    behind = t[:, None] - t
    near = (behind >= 0) & (behind < window)
    far = (behind >= window) & (t < sinks)
    at = place[:, None] - t
    if layer.pattern.sliding is not None:
        near &= behind < layer.pattern.sliding
        far &= at < layer.pattern.sliding
    if layer.pattern.chunked is not None:
        near &= behind <= (place % layer.pattern.chunked)[:, None]
        far &= (place < layer.pattern.chunked)[:, None]
    return near, far
