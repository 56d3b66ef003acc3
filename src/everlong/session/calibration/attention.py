"""Where the heads of a stock model look while it reads a question: attention mass per block of the text.

L layers with attention, H query heads, T tokens of the question, S tokens in the cache, N blocks
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from everlong.errors import CapabilityError, one_line
from everlong.models.internals import attention_modules, configs_of, decoder_of, device_of

SINKS = 64
"""Tokens at the beginning that are no block's: heads with nothing to find look there."""
BLOCK = 128
"""Tokens of a block."""
_CHUNK = 512


def blocks_of(tokens: int) -> int:
    """How many whole or begun blocks a text of so many tokens has."""
    return max(0, -(-(tokens - SINKS) // BLOCK))


def block_at(token: int) -> int:
    """The block that holds the token at this place of the text."""
    return (token - SINKS) // BLOCK


class Watched:
    """A text that was read once by a stock model, and whose questions are read one by one behind it."""

    def __init__(self, model: Any) -> None:
        self.layers = _attention_layers(model)
        self._decoder = decoder_of(model)
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._tokens = 0

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Iterator[int]:
        """Read the text in chunks; the tokens read so far after each."""
        for start in range(0, len(ids), _CHUNK):
            self._forward(self._cache, ids[start : start + _CHUNK])
            self._tokens = min(start + _CHUNK, len(ids))
            yield self._tokens

    @torch.inference_mode()
    def ask(self, question: Sequence[int]) -> Tensor:
        """The mass [L, H, N], float32, on every block: the most that any of the question's tokens puts there.

        The cache stays as it was. CapabilityError where the model gives no attention.
        """
        with _eager(self._decoder):
            output = self._forward(_forked(self._cache), question, output_attentions=True)
        found = getattr(output, "attentions", None) or ()
        weights = [w for w in found if isinstance(w, Tensor)]
        if len(weights) != len(self.layers):
            raise CapabilityError(
                f"calibration: {type(self._model).__name__} gives the attention of {len(weights)} layers, expected "
                f"{len(self.layers)}; retrieval heads cannot be found for it"
            )
        return torch.stack([block_masses(w[0], self._tokens) for w in weights]).cpu()

    def _forward(self, cache: Any, ids: Sequence[int], **wanted: Any) -> Any:
        device = device_of(self._model)
        at = torch.tensor([list(ids)], device=device)
        try:
            return self._decoder(input_ids=at, past_key_values=cache, use_cache=True, **wanted)
        except (TypeError, ValueError, AttributeError) as error:
            name = type(self._model).__name__
            raise CapabilityError(
                f"calibration: {name} does not run as it must ({one_line(error)}); retrieval heads cannot be found for "
                "it, so its memory chooses by its own keys"
            ) from error


def block_masses(weights_HTS: Tensor, tokens: int) -> Tensor:
    """The largest mass [H, N] on every block over the question's tokens.

    `weights_HTS`: attention over the text's `tokens` and the question. Layers with a window have fewer columns, the
    newest ones: what they do not see has no mass.
    """
    heads, questions, columns = weights_HTS.shape
    missing = tokens + questions - columns
    masses = torch.zeros(heads, questions, blocks_of(tokens) * BLOCK, device=weights_HTS.device)
    first = max(SINKS, missing)
    masses[..., first - SINKS : tokens - SINKS] = weights_HTS[..., first - missing : tokens - missing].float()
    return masses.unflatten(-1, (-1, BLOCK)).sum(-1).amax(1)


def _attention_layers(model: Any) -> tuple[int, ...]:
    """The layers with softmax attention, by number."""
    config = model.config.get_text_config(decoder=True)
    types = getattr(config, "layer_types", None)
    if types:
        soft = ("full_attention", "sliding_attention", "chunked_attention", "attention")
        return tuple(i for i, kind in enumerate(types) if kind in soft)
    found = {getattr(m, "layer_idx", None) for _, m in attention_modules(decoder_of(model))}
    return tuple(sorted(i for i in found if isinstance(i, int)))


@contextmanager
def _eager(decoder: Any) -> Iterator[None]:
    """The attention that shows its weights, while inside."""
    configs = configs_of(decoder)
    stock = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        yield
    finally:
        for config, name in zip(configs, stock, strict=True):
            config._attn_implementation = name


def _forked(cache: DynamicCache) -> DynamicCache:
    """A cache with the same past: layers replace their tensors as they grow, so the tensors can be shared."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork
