"""A cached stream as tensors and JSON-able facts, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.cache.frames import Frame
from everlong.cache.layer_state import CONV, RECURRENT
from everlong.cache.positions import TokenPlaces
from everlong.cache.stream import CachedStream


def stream_state(stream: CachedStream, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, JSON-able facts): all that is needed to go on, the live columns only.

    Not `sealed`: without the blocks that a store on disk keeps.
    """
    tensors: dict[str, Tensor] = {}
    for index, arena in stream.arenas.items():
        if arena.keys is None:
            continue
        for name, x in zip("kv", arena.pair, strict=True):
            live = [x[:, :, a:b] for a, b in arena.live(stream.seen_tokens)]
            tensors[f"layer{index}.{name}"] = torch.cat(live, 2) if live else x[:, :, :0].clone()
    for index, state in stream.states.items():
        tensors |= {f"layer{index}.{kind}{n}": x.contiguous() for (kind, n), x in state.states.items()}
    shifts = {str(index): arena.shift for index, arena in stream.arenas.items()}
    columns = {str(i): a.keys.shape[2] for i, a in stream.arenas.items() if a.keys is not None}
    memory = None
    if stream.memory is not None:
        more, memory = stream.memory.state(sealed)
        tensors |= more
    return tensors, {
        "memory": memory,
        "seen": stream.seen_tokens,
        "segments": [[s.start, s.base] for s in stream.segments],
        "places": None if stream.places.is_text else stream.places.state(),
        "pads": None if stream.pads is None else stream.pads.tolist(),
        "shifts": shifts,
        "columns": columns,
        "chunk": stream.chunk,
        "states": {str(i): [n for n, has in s.has_previous_state.items() if has] for i, s in stream.states.items()},
    }


def load_stream(
    stream: CachedStream,
    tensors: dict[str, Tensor],
    facts: dict[str, Any],
    device: torch.device | str = "cpu",
    stored: Sequence[Any] = (),
) -> None:
    """Become the stream whose `state` this is; for a fresh one of the same model (on `device`) and method.

    `stored`: what the memory of an offloaded stream has kept of its store, row by row.
    """
    stream.seen_tokens, stream.chunk = facts["seen"], facts["chunk"]
    stream.segments = [Frame(*pair) for pair in facts["segments"]]
    stream.places = TokenPlaces.restored(facts.get("places"))
    for lane in stream.lanes.values():
        lane.room = stream.chunk
    if facts["pads"] is not None:
        stream.set_pads(np.array(facts["pads"], dtype=np.int64))
    for index, arena in stream.arenas.items():
        arena.shift = facts["shifts"][str(index)]
        # A forward that was abandoned has moved the columns of some layers; the others follow when next written.
        arena.lane.shift = max(arena.lane.shift, arena.shift)
        if str(index) in facts["columns"]:
            k, v = (tensors[f"layer{index}.{name}"].to(device) for name in "kv")
            arena.restore(k, v, facts["columns"][str(index)], stream.seen_tokens)
    for index, state in stream.states.items():
        names = {
            (kind, n): f"layer{index}.{kind}{n}" for kind in (CONV, RECURRENT) for n in range(state.number_of_states)
        }
        held = {key: tensors[name].to(device) for key, name in names.items() if name in tensors}
        state.restore(held, facts["states"][str(index)])
    if stream.memory is None:
        return
    kept = facts["memory"] if "memory" in facts else facts["blocks"]
    if stream.blocks is not None:
        stream.memory = stream.blocks.restored(tensors, kept, torch.device(device), stored)
    else:
        stream.memory = stream.memory.restored(tensors, kept, torch.device(device))
