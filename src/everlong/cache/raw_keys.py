"""Keys of a stream as they were before they were rotated.

Letters: G kv heads, n tokens, D head dim.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.stream import CachedStream
from everlong.ops.rotary import turn_by, turned


def raw_keys(stream: CachedStream, layer: int, first: int, end: int) -> Float[Tensor, "G n D"]:
    """Keys of the tokens `first` .. `end` - 1, each turned back to its place; of a single row.

    For tokens that a block memory has not sealed yet, in a layer that it serves.
    """
    assert stream.blocks is not None
    plan = stream.plan.by_index[layer]
    rotation = plan.rotation
    held, pending = stream.blocks.pending_keys(layer, first, end)
    found = [] if pending is None else [pending]
    arena = stream.arenas[layer]
    ends = [*(s.start for s in stream.segments[1:]), stream.seen_tokens]
    for segment, after in zip(stream.segments, ends, strict=True):
        a = max(first, held, segment.start)
        b = min(end, after)
        if a < b:
            pair = [x[:, :, a - arena.shift : b - arena.shift] for x in arena.pair]
            keys = torch.cat(pair, 3) if plan.joint else pair[0]
            if rotation is not None:
                places = stream.places.between(a, b) - segment.base
                keys = turned(keys, rotation, turn_by(rotation, -torch.from_numpy(places), keys))
            found.append(keys[0])
    return torch.cat(found, 1)
