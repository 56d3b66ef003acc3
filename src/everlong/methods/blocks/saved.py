"""A block memory as tensors and JSON-able facts, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.methods.blocks.boundaries import make_cuts, touching
from everlong.methods.blocks.cells import Cursor
from everlong.methods.blocks.layer import LayerMemory, Progress, Shape
from everlong.methods.blocks.memory import BlockMemory
from everlong.methods.blocks.pins import Pin, held
from everlong.methods.blocks.recall.index import KeyPair
from everlong.methods.blocks.step import Row
from everlong.storage.base import HostStore
from everlong.storage.disk import DiskStore

State = tuple[dict[str, Tensor], dict[str, Any]]
DIGESTS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""The dtypes of digests by name; a state from before does not name its own, which is float32."""
COUNTS = ("pending", "held", "weighed", "base")


def state(memory: BlockMemory, sealed: bool = True) -> State:
    """All that is needed to go on; the sealed blocks too, or (not `sealed`) without what a store on disk keeps."""
    memory.settle()
    tensors: dict[str, Tensor] = {}
    rows = []
    for n, row in enumerate(memory.rows):
        facts = {}
        for layer, part in row.layers.items():
            found, facts[str(layer)] = _layer_state(part, sealed, row.dropped)
            tensors |= {f"row{n}.layer{layer}.{name}": x for name, x in found.items()}
        tensors |= {f"row{n}.cuts.{name}": x for name, x in row.cuts.state().items()}
        tensors[f"row{n}.gone"] = torch.from_numpy(row.gone)
        tensors[f"row{n}.used"] = torch.tensor(sorted(row.used.items()), dtype=torch.int64).reshape(-1, 2)
        cited = [[block, mass] for block, mass in memory.citations(n).items()]
        kept = {"pad": row.pad, "cursor": asdict(memory.cursor(n)), "dropped": sorted(row.dropped)}
        kept |= {"bare": sorted(row.bare), "cited": cited, "layers": facts, "pins": [asdict(pin) for pin in row.pins]}
        if row.recall is not None:
            kept |= {"recall": [asdict(pair) for pair in row.recall.pairs], "recalled": sorted(row.recalled)}
            if sealed:
                tensors[f"row{n}.recall"] = row.recall.joined()
        rows.append(kept)
    return tensors, {"answering": memory.answering, "digests": _name(memory.digest_dtype), "rows": rows}


def _layer_state(part: LayerMemory, sealed: bool, dropped: Collection[int]) -> State:
    now, S = part.now, part.settings.sinks
    live = slice(now.at, now.at + now.pending_tokens)
    first = part.raw_sink
    held = min(S, now.held)
    tensors = {
        "tail_k": now.tail.k[:, :, live],
        "tail_v": now.tail.v[:, :, live],
        "tail_mass": now.tail.mass[:, live],
        "sinks_k": part.raw_sinks[0][:, :, first : first + held],
        "sinks_v": part.raw_sinks[1][:, :, first : first + held],
    }
    if sealed and part.settings.keep == "blocks":
        assert isinstance(part.store, HostStore)
        tensors["digests"] = part.index.digests.joined(part.sealed)
        tensors["records"] = part.store.records(part.layer, part.sealed)
        wiped = np.isin(part.index.digests.numbers(part.sealed), sorted(dropped))
        for name in ("digests", "records"):
            tensors[name][torch.from_numpy(wiped)] = 0
    optional = {"mass": now.mass, "queries": now.queries, "chosen": _as_tensor(now.chosen)}
    optional["slots"] = _as_tensor(now.slots)
    tensors |= {name: x for name, x in optional.items() if x is not None}
    facts = {name: getattr(now, name) for name in COUNTS} | {"heads": part.shape.heads}
    return {name: x.contiguous() for name, x in tensors.items()}, facts


def _name(dtype: torch.dtype) -> str:
    return next(name for name, one in DIGESTS.items() if one == dtype)


def _as_tensor(chosen: Any) -> Tensor | None:
    return None if chosen is None else torch.from_numpy(np.array(chosen))


def restored(
    memory: BlockMemory, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device
) -> BlockMemory:
    """A memory of the settings and the model of `memory` with this state; blocks that it lacks are in the store."""
    fresh = memory.fresh()
    fresh.answering = facts["answering"]
    fresh.digest_dtype = DIGESTS[facts.get("digests", "float32")]
    progress, cursors, cited = [], [], []
    for n, saved_row in enumerate(facts["rows"]):
        cuts = make_cuts(memory.settings)
        cuts.load_state(_named(tensors, f"row{n}.cuts."))
        row = Row(fresh.make_store(), {}, saved_row["pad"], frozenset(saved_row["dropped"]), cuts=cuts)
        row.recall = fresh.make_recall(fresh, _pairs(saved_row.get("recall")))
        row.bare = frozenset(saved_row.get("bare", ()))
        row.recalled = frozenset(saved_row.get("recalled", ()))
        if row.recall is not None and f"row{n}.recall" in tensors:
            row.recall.restore(tensors[f"row{n}.recall"])
        row.pins = tuple(Pin(**pin) for pin in saved_row.get("pins", ()))
        row.pinned, row.kept = held(row.pins, partial(touching, cuts), row.dropped)
        if f"row{n}.gone" in tensors:
            row.gone = tensors[f"row{n}.gone"].numpy()
            row.used = Counter(dict(tensors[f"row{n}.used"].tolist()))
        found = _by_layer(tensors, f"row{n}.layer")
        if found:
            fresh.prepare(row.store, next(iter(found.values()))["tail_k"].dtype)
        for layer, part in found.items():
            placed = {name: x if name in ("digests", "records") else x.to(device) for name, x in part.items()}
            _restore_layer(fresh, row, layer, placed, saved_row["layers"][str(layer)])
        if isinstance(row.store, DiskStore):
            row.gone = row.store.absent(row.bare)
            widths = {i: part.index.digests.columns for i, part in sorted(row.layers.items())}
            rows = row.store.blocks - len(row.gone)
            for layer, load in row.store.digests(widths, fresh.digest_dtype).items():
                row.layers[layer].index.digests.promise(rows, load, row.gone)
        fresh.rows.append(row)
        progress.append({layer: part.now for layer, part in row.layers.items()})
        cursors.append(Cursor(**saved_row["cursor"]))
        cited.append({int(block): mass for block, mass in saved_row["cited"]})
    fresh.resume(progress, cursors, cited)
    return fresh


def _pairs(saved: list[dict[str, Any]] | None) -> list[KeyPair] | None:
    """The pairs of a saved index; None for a state without one."""
    if saved is None:
        return None
    return [KeyPair(p["layer"], p["kv_head"], p["dim"], tuple(p["heads"])) for p in saved]


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names are `prefix`NAME, by NAME."""
    return {full.removeprefix(prefix): x for full, x in tensors.items() if full.startswith(prefix)}


def _by_layer(tensors: dict[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    """The tensors whose names are `prefix`N.NAME, by N and NAME."""
    found: dict[int, dict[str, Tensor]] = {}
    for rest, x in _named(tensors, prefix).items():
        layer, name = rest.split(".")
        found.setdefault(int(layer), {})[name] = x
    return found


def _restore_layer(memory: BlockMemory, row: Row, layer: int, found: dict[str, Tensor], counts: dict[str, int]) -> None:
    k, v = found["tail_k"], found["tail_v"]
    sizes = counts["heads"], k.shape[1], k.shape[3], v.shape[3]
    memory.add_layer(row, layer, Shape(*sizes, k.dtype, k.device, memory.digest_dtype, memory.plan.ranks))
    part = row.layers[layer]
    tail, used = part.now.tail, k.shape[2]
    mass = found["tail_mass"][: len(tail.mass)]
    tail.k[:, :, :used], tail.v[:, :, :used], tail.mass[:, :used] = k, v, mass
    first = part.raw_sink
    for mine, name in zip(part.raw_sinks, ("sinks_k", "sinks_v"), strict=True):
        mine[:, :, first : first + found[name].shape[2]] = found[name]
    if "records" in found:
        assert isinstance(row.store, HostStore)
        part.index.digests.restore(found["digests"], row.gone)
        row.store.restore(layer, found["records"], row.gone)
    chosen, slots = (found[name].cpu().numpy() if name in found else None for name in ("chosen", "slots"))
    at = {name: counts[name] for name in COUNTS}
    part.now = Progress(tail, chosen=chosen, slots=slots, mass=found.get("mass"), queries=found.get("queries"), **at)
