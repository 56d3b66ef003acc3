"""Whether streams of an attached model may be packed into one row: by how its attention is reached, and by trying."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from everlong.cache.packed import PackedCache
from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.hooks.patch import ModelPatch
from everlong.hooks.replacement import Replacement
from everlong.hooks.self_check import TOLERANCE
from everlong.models.internals import decoder_of, device_of, text_config

BEFORE, NEW = (9, 4), (3, 6)
"""Tokens that the two streams of the trial have read, and read then in one row."""
_FOUND: WeakKeyDictionary[ModelPatch, str | None] = WeakKeyDictionary()


def unpackable(model: PreTrainedModel) -> str | None:
    """Why streams of this attached model cannot be packed; None where they can. Tried once for each attachment."""
    replacement = Replacement.of(decoder_of(model))
    if replacement is None:
        return "the model is not attached"
    patch = replacement.owner
    if patch not in _FOUND:
        patch.being_checked = True
        try:
            _FOUND[patch] = patch.unpackable or _differs(model, patch)
        finally:
            patch.being_checked = False
    return _FOUND[patch]


@torch.inference_mode()
def _differs(model: PreTrainedModel, patch: ModelPatch) -> str | None:
    """Read two short streams packed and one by one."""
    device, vocabulary = device_of(model), text_config(model).vocab_size
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(vocabulary, (1, a + b), generator=draw) for a, b in zip(BEFORE, NEW, strict=True)]
    streams = [CachedStream(patch.plan, "packed check", 0, None) for _ in texts]
    alone = []
    for stream, ids, before in zip(streams, texts, BEFORE, strict=True):
        patch.decoder(input_ids=ids[:, :before].to(device), past_key_values=StreamCache(stream), use_cache=True)
        fork = StreamCache(stream.fork())
        alone.append(patch.decoder(input_ids=ids[:, before:].to(device), past_key_values=fork, use_cache=True)[0])
    row = torch.cat([ids[:, before:] for ids, before in zip(texts, BEFORE, strict=True)], 1).to(device)
    got = patch.decoder(input_ids=row, past_key_values=PackedCache(streams, NEW), use_cache=True)[0].float()
    expected = torch.cat(alone, 1).float()
    error = float((got - expected).norm() / expected.norm())
    allowed = TOLERANCE[patch.plan.dtype]
    return None if error <= allowed else f"packed, hidden states differ by {error:.2g} (at most {allowed:.2g} allowed)"
