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
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from everlong.models.internals import configs_of
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.rotary import turn_by, turned

NAME = "windowed-reference"
_WINDOWED: list[tuple[ModelLayout, int, int, Iterator[LayerPlan]]] = []
"""The plan, sinks and window that are asked for, and the layers still to come (where modules do not know their own)."""


@torch.no_grad()
def windowed(model: PreTrainedModel, plan: ModelLayout, ids: Tensor, sinks: int, window: int) -> Tensor:
    """Logits [B, T, vocabulary] of a model whose attention goes through transformers' attention function."""
    with _named(model):
        _WINDOWED.append((plan, sinks, window, iter(plan.layers)))
        try:
            return model(input_ids=ids, use_cache=False).logits
        finally:
            _WINDOWED.pop()


@contextmanager
def _named(model: PreTrainedModel) -> Iterator[None]:
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
    plan, sinks, window, coming = _WINDOWED[-1]
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
        moved = turned(q, layer.rotation, turn_by(layer.rotation, torch.from_numpy(place - t), q))
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
