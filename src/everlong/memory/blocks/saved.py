"""A block memory as tensors and JSON-able facts, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.memory.blocks.cells import Cursor
from everlong.memory.blocks.layer import LayerMemory, Progress, Shape
from everlong.memory.blocks.memory import BlockMemory, Row
from everlong.memory.store import HostStore

State = tuple[dict[str, Tensor], dict[str, Any]]
COUNTS = ("pending", "held", "weighed", "base")


def state(memory: BlockMemory) -> State:
    """All that is needed to go on, the sealed blocks too."""
    tensors: dict[str, Tensor] = {}
    rows = []
    for n, row in enumerate(memory.rows):
        facts = {}
        for layer, part in row.layers.items():
            found, facts[str(layer)] = _layer_state(part)
            tensors |= {f"row{n}.layer{layer}.{name}": x for name, x in found.items()}
        cited = [[block, mass] for block, mass in memory.citations(n).items()]
        rows.append({"pad": row.pad, "cursor": asdict(memory.cursor(n)), "cited": cited, "layers": facts})
    return tensors, {"answering": memory.answering, "rows": rows}


def _layer_state(part: LayerMemory) -> State:
    now, S = part.now, part.settings.sinks
    blocks = (now.pending - S) // part.settings.block
    live = slice(now.at, now.at + now.pending_tokens)
    first = part.first_sink if part.raw_sinks is part.front else 0
    held = min(S, now.held)
    tensors = {
        "tail_k": now.tail.k[:, :, live],
        "tail_v": now.tail.v[:, :, live],
        "tail_mass": now.tail.mass[:, live],
        "sinks_k": part.raw_sinks[0][:, :, first : first + held],
        "sinks_v": part.raw_sinks[1][:, :, first : first + held],
        "digests": part.index.digests.joined(blocks),
        "records": part.store.records(part.layer, blocks),
    }
    optional = {"mass": now.mass, "queries": now.queries, "chosen": _as_tensor(now.chosen)}
    optional["slots"] = _as_tensor(now.slots)
    tensors |= {name: x for name, x in optional.items() if x is not None}
    facts = {name: getattr(now, name) for name in COUNTS} | {"heads": part.shape.heads}
    return {name: x.contiguous() for name, x in tensors.items()}, facts


def _as_tensor(chosen: Any) -> Tensor | None:
    return None if chosen is None else torch.from_numpy(np.array(chosen))


def restored(
    memory: BlockMemory, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device
) -> BlockMemory:
    """A memory of the settings and the model of `memory` with this state."""
    fresh = memory.fresh()
    fresh.answering = facts["answering"]
    progress, cursors, cited = [], [], []
    for n, saved_row in enumerate(facts["rows"]):
        row = Row(HostStore(), {}, saved_row["pad"])
        for layer, counts in saved_row["layers"].items():
            prefix = f"row{n}.layer{layer}."
            found = {k.removeprefix(prefix): x.to(device) for k, x in tensors.items() if k.startswith(prefix)}
            _restore_layer(fresh, row, int(layer), found, counts)
        fresh.rows.append(row)
        progress.append({layer: part.now for layer, part in row.layers.items()})
        cursors.append(Cursor(**saved_row["cursor"]))
        cited.append({int(block): mass for block, mass in saved_row["cited"]})
    fresh.resume(progress, cursors, cited)
    return fresh


def _restore_layer(memory: BlockMemory, row: Row, layer: int, found: dict[str, Tensor], counts: dict[str, int]) -> None:
    k, v = found["tail_k"], found["tail_v"]
    shape = Shape(counts["heads"], k.shape[1], k.shape[3], v.shape[3], k.dtype, k.device)
    memory.add_layer(row, layer, shape)
    part = row.layers[layer]
    tail, used = part.now.tail, k.shape[2]
    tail.k[:, :, :used], tail.v[:, :, :used], tail.mass[:, :used] = k, v, found["tail_mass"]
    first = part.first_sink if part.raw_sinks is part.front else 0
    for mine, name in zip(part.raw_sinks, ("sinks_k", "sinks_v"), strict=True):
        mine[:, :, first : first + found[name].shape[2]] = found[name]
    part.index.digests.restore(found["digests"].cpu())
    part.store.restore(layer, found["records"].cpu())
    choice = {name: found[name].cpu().numpy() for name in ("chosen", "slots") if name in found}
    numbers = {name: counts[name] for name in COUNTS}
    part.now = Progress(tail, mass=found.get("mass"), queries=found.get("queries"), **choice, **numbers)
