"""Attention of an answer's tokens that tells what chosen blocks get of it.

Letters: T new tokens, H query heads, E value dim, G kv heads, F = H / G, K chosen blocks, R runs of keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.blocks.decode import cite
from everlong.methods.blocks.layer import LayerMemory
from everlong.ops.attend import AttentionPart
from everlong.ops.attend_token import AttendedKeys, attend_token


def attend_cited(
    cited: dict[int, float],
    memory: LayerMemory,
    window: Sequence[AttentionPart],
    front: AttentionPart,
    scale: float,
    s_aux: Tensor | None,
) -> Float[Tensor, "1 T H E"]:
    """The outputs, token by token; each chosen block is a run of keys of its own, cited by its share."""
    assert memory.now.chosen is not None
    chosen = memory.now.chosen.shape[1]
    found = []
    for at in range(front.q.shape[2]):
        ranges = _ranges(at, chosen, memory.slots.first_sink, window, front)
        found.append(attend_token(ranges, scale, s_aux, shares=True))
    got = torch.stack([shares for _, shares in found if shares is not None]).sum(0)
    cite(cited, memory.slots, got[:chosen].sum(2).tolist())
    return found[0][0] if len(found) == 1 else torch.cat([out for out, _ in found], 1)


def _ranges(
    at: int, chosen: int, sinks: int, window: Sequence[AttentionPart], front: AttentionPart
) -> list[AttendedKeys]:
    """What token number `at` attends to: `chosen` blocks as runs, which end in column `sinks`, sinks and window."""
    query = slice(at, at + 1)
    first, _, _, end = front.span.limits(at, at + 1)
    q = front.q[:, :, query]
    found = [AttendedKeys(q, front.k, front.v, first, sinks - first, chosen)]
    if end > sinks:
        found.append(AttendedKeys(q, front.k, front.v, sinks, end - sinks))
    for part in window:
        lo, _, _, hi = part.span.limits(at, at + 1)
        if lo < hi:
            found.append(AttendedKeys(part.q[:, :, query], part.k, part.v, part.start + lo, hi - lo))
    return found
