"""A recall index that lacks blocks, made whole from their stored keys: sessions of earlier versions, damaged rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from everlong.methods.blocks.memory import BlockMemory
    from everlong.methods.blocks.step import Row


def catch_up(memory: BlockMemory, n: int = 0) -> bool:
    """Let the index of row `n` hold all sealed blocks; whether it does: it cannot where a block kept no keys."""
    row, sealed = memory.rows[n], memory.sealed(n)
    if row.recall is None:
        return False
    for block in range(row.recall.blocks, sealed):
        for layer in row.recall.layers:
            keys = _keys(row, layer, block)
            if keys is None:
                return False
            row.recall.put(layer, block, keys[None])
        row.recall.commit(block + 1)
    return row.recall.blocks == sealed


def _keys(row: Row, layer: int, block: int) -> Float[Tensor, "G n D"] | None:
    """The stored keys of a block; zeros for a dropped one, None for one that is kept as ids."""
    shape = row.layers[layer].shape
    if block in row.dropped:
        return torch.zeros(shape.kv_heads, 1, shape.key_dim)
    if block in row.bare or row.layers[layer].settings.keep == "ids":
        return None
    keys, _ = row.store.codec(layer).decode(row.store.record(layer, block))
    return keys[:, : row.cuts.start(block + 1) - row.cuts.start(block)]
