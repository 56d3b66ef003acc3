"""A recall index that lacks blocks, made whole from their stored keys: sessions of earlier versions, damaged rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.blocks.stream import BlockStream


def catch_up(stream: BlockStream) -> bool:
    """Let the stream's index hold all sealed blocks; whether it does: it cannot where a block kept no keys."""
    if stream.recall is None:
        return False
    for block in range(stream.recall.blocks, stream.sealed):
        for layer in stream.recall.layers:
            keys = _keys(stream, layer, block)
            if keys is None:
                return False
            stream.recall.put(layer, block, keys[None])
        stream.recall.commit(block + 1)
    return stream.recall.blocks == stream.sealed


def _keys(stream: BlockStream, layer: int, block: int) -> Float[Tensor, "G n D"] | None:
    """The stored keys of a block; zeros for a dropped one, None for one that is kept as ids."""
    shape = stream.layers[layer].shape
    if block in stream.dropped:
        return torch.zeros(shape.kv_heads, 1, shape.key_dim)
    if block in stream.bare or stream.layers[layer].settings.keep == "ids":
        return None
    keys, _ = stream.store.codecs[layer].decode(stream.store.record(layer, block))
    return keys[:, : stream.cuts.start(block + 1) - stream.cuts.start(block)]
