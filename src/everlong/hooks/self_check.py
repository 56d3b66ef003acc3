"""The check that every attached model must pass before it is used."""

from __future__ import annotations

import itertools
from contextlib import suppress

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from everlong.cache.stream_cache import StreamCache
from everlong.errors import SelfCheckError
from everlong.hooks.parting import reason
from everlong.models.internals import around_decoder, decoder_of, device_of, text_config
from everlong.models.layout import ModelLayout

TOKENS = 12
CUTS = (0, 5, 6, TOKENS)
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Relative error of the hidden states; a wrong mask, rotation or scale gives errors near 1."""


def check_equal_to_stock(model: PreTrainedModel, cache: StreamCache) -> None:
    """SelfCheckError unless a short input read in pieces through `cache` gives what the stock model gives at once.

    Models that take more than text are run from where text, images and sound meet.
    """
    vocabulary = text_config(model).vocab_size
    ids = torch.randint(vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(0)).to(device_of(model))
    run, expected = _stock(model, ids)
    pieces = [run(input_ids=ids[:, a:b], past_key_values=cache, use_cache=True)[0] for a, b in itertools.pairwise(CUTS)]
    got = torch.cat(pieces, 1).float()
    error = float((got - expected).norm() / expected.norm())
    allowed = TOLERANCE[cache.stream.plan.dtype]
    if not error <= allowed:
        why = _reason(run, ids, cache.stream.plan)
        raise SelfCheckError(
            f"{type(model).__name__}: attached, a {TOKENS}-token input gives hidden states that differ by {error:.2g} "
            f"from the stock model's (at most {allowed:.2g} allowed){f': {why}' if why else ''}; the model cannot be "
            "attached"
        )


def _reason(run: nn.Module, ids: Tensor, plan: ModelLayout) -> str:
    """Where it parts from the stock model; nothing where that cannot be found out."""
    with suppress(Exception):
        return reason(run, ids, CUTS, plan)
    return ""


def _stock(model: PreTrainedModel, ids: Tensor) -> tuple[nn.Module, Tensor]:
    """The module to check, and what it gives for `ids`: the one around the decoder, if text alone is enough for it."""
    around = around_decoder(model)
    decoder = decoder_of(model)
    if around is not None:
        with suppress(Exception):
            return around, around(input_ids=ids, use_cache=False)[0].float()
    return decoder, decoder(input_ids=ids, use_cache=False)[0].float()
