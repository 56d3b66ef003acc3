"""The check that every attached model must pass before it is used."""

from __future__ import annotations

import itertools

import torch
from transformers import PreTrainedModel

from everlong.attach.stock import decoder_of, device_of, text_config
from everlong.errors import SelfCheckError
from everlong.memory.cache import StreamCache

TOKENS = 12
CUTS = (0, 5, 6, TOKENS)
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Relative error of the hidden states; a wrong mask, rotation or scale gives errors near 1."""


def check_equal_to_stock(model: PreTrainedModel, cache: StreamCache) -> None:
    """SelfCheckError unless a short input read in pieces through `cache` gives what the stock model gives at once."""
    decoder = decoder_of(model)
    vocabulary = text_config(model).vocab_size
    ids = torch.randint(vocabulary, (1, TOKENS), generator=torch.Generator().manual_seed(0)).to(device_of(model))
    with torch.no_grad():
        expected = decoder(input_ids=ids, use_cache=False)[0].float()
        pieces = [
            decoder(input_ids=ids[:, a:b], past_key_values=cache, use_cache=True)[0]
            for a, b in itertools.pairwise(CUTS)
        ]
    got = torch.cat(pieces, 1).float()
    error = float((got - expected).norm() / expected.norm())
    allowed = TOLERANCE[cache.plan.dtype]
    if not error <= allowed:
        raise SelfCheckError(
            f"{type(model).__name__}: attached, a {TOKENS}-token input gives hidden states that differ by {error:.2g} "
            f"from the stock model's (at most {allowed:.2g} allowed); the model cannot be attached"
        )
