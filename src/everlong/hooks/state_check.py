"""What states of constant size a model keeps, and whether a forward over several tokens goes on from them.

Some layers begin anew in such a forward, in plain transformers too: they are given their tokens one by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

from everlong.errors import UnsupportedLayerError
from everlong.models.internals import accepts, attention_modules, decoder_of, device_of, text_config
from everlong.models.layout import StatePlan

BEFORE = 5
NEW = 2
"""Tokens read at once in front of those that are read at once and one by one; few, as states fade."""
SINGLY = (BEFORE, *[1] * NEW)

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}

ASKS = {"get_conv_state", "get_recurrent_state", "update_conv_state", "update_recurrent_state"}
"""What a layer with a state calls of its cache."""


def state_plans(layers: Mapping[int, LinearAttentionCacheLayerMixin], rows: int) -> tuple[StatePlan, ...]:
    """The layers of a cache in which a forward over `rows` rows has left a state."""
    found = []
    for index, layer in layers.items():
        states = list(_states(layer))
        if states:
            found.append(StatePlan(index, layer.number_of_states, sum(x.nbytes for x in states) // rows))
    return tuple(found)


@torch.no_grad()
def carries_states(model: PreTrainedModel) -> bool:
    """Whether a forward over several tokens goes on from the states that others left; False: over one alone does.

    UnsupportedLayerError where token by token gives other states than all at once, as plain transformers would.
    """
    count = BEFORE + NEW
    ids = torch.randint(text_config(model).vocab_size, (1, count), generator=torch.Generator().manual_seed(0))
    expected = _read(model, ids, (count,))
    at_once, singly = (_wrong(_read(model, ids, cut), expected, model.dtype) for cut in ((BEFORE, NEW), SINGLY))
    if singly is not None:
        raise UnsupportedLayerError(
            f"{type(model).__name__} layer {singly}: read token by token it has another state than read at once (in "
            "plain transformers too); use another model, or transformers without everlong"
        )
    return at_once is None


def _wrong(got: list[tuple[int, Tensor]], expected: list[tuple[int, Tensor]], dtype: torch.dtype) -> int | None:
    """The first layer whose states are not the expected ones."""
    for (layer, a), (_, b) in zip(got, expected, strict=True):
        if not float((a - b).norm() / b.norm().clamp_min(1e-30)) <= TOLERANCE[dtype]:
            return layer
    return None


def _read(model: PreTrainedModel, ids: Tensor, cut: tuple[int, ...]) -> list[tuple[int, Tensor]]:
    """All states behind the ids, read in pieces, with the index of their layer."""
    cache = DynamicCache(config=model.config)
    decoder = decoder_of(model)
    places = torch.arange(ids.shape[1], device=device_of(model))[None]
    for piece, at in zip(ids.to(device_of(model)).split(cut, 1), places.split(cut, 1), strict=True):
        where = {"position_ids": at} if accepts(decoder, "position_ids") else {}
        decoder(input_ids=piece, past_key_values=cache, use_cache=True, **where)
    layers = [(i, x) for i, x in enumerate(cache.layers) if isinstance(x, LinearAttentionCacheLayerMixin)]
    return [(i, x.float()) for i, layer in layers for x in _states(layer)]


def _states(layer: LinearAttentionCacheLayerMixin) -> Iterator[Tensor]:
    for held in (layer.conv_states, layer.recurrent_states):
        yield from (x for x in held.values() if x is not None)


def stateful_modules(decoder: nn.Module) -> list[nn.Module]:
    """The modules that ask the cache for a state; UnsupportedLayerError if there are none."""
    found = [m for _, m in attention_modules(decoder) if asks_for_states(m)]
    if not found:
        raise UnsupportedLayerError(
            f"{type(decoder).__name__}: where it reads several tokens it begins its states anew, and which of its "
            "modules do is not known here; use another model, or transformers without everlong"
        )
    return found


def asks_for_states(module: nn.Module) -> bool:
    """Whether a module's own code asks the cache for a state."""
    methods = [inspect.unwrap(m) for c in type(module).__mro__ for m in vars(c).values() if inspect.isfunction(m)]
    return any(ASKS & set(method.__code__.co_names) for method in methods)


def one_by_one(forward: Any) -> Any:
    """A module's forward that is given its tokens one by one, with what belongs to each of them."""

    def singly(*args: Any, **kwargs: Any) -> Any:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        count = hidden.shape[1]
        parts = [
            forward(*(_at(x, t, count) for x in args), **{name: _at(x, t, count) for name, x in kwargs.items()})
            for t in range(count)
        ]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts, 1)
        return (torch.cat([part[0] for part in parts], 1), *parts[-1][1:])

    return singly


def _at(x: Any, token: int, count: int) -> Any:
    """What of an argument belongs to one of `count` tokens: of tensors [B, T, ...] its place, all of others."""
    if isinstance(x, tuple):
        return tuple(_at(part, token, count) for part in x)
    if isinstance(x, Tensor) and x.ndim > 1 and x.shape[1] == count:
        return x[:, token : token + 1]
    return x
