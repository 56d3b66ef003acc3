"""A stream of a block memory as tensors and JSON-able facts, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from everlong.cache.stream_memory import MemoryAccount
from everlong.methods.blocks.boundaries import touching
from everlong.methods.blocks.cells import Cursor
from everlong.methods.blocks.index import Index
from everlong.methods.blocks.layer import LayerMemory
from everlong.methods.blocks.layout import prepare
from everlong.methods.blocks.pins import Pin, held
from everlong.methods.blocks.progress import LayerProgress
from everlong.methods.blocks.recall.index import KeyPair, RecallIndex
from everlong.methods.blocks.stream import BlockStream, Done
from everlong.storage.base import Store, Traffic

State = tuple[dict[str, Tensor], dict[str, Any]]
DIGESTS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""The dtypes of digests by name; a state from before does not name its own, which is float32."""
COUNTS = ("pending", "held", "weighed", "base")


@dataclass(frozen=True, eq=False)
class StoredBlocks:
    """What of a stream lies outside the model's device, and stays where it is while the stream is offloaded."""

    store: Store
    recall: RecallIndex | None
    indices: dict[int, Index] = field(default_factory=dict)
    """The digests of each layer; none for a stream whose state or store has them."""

    @classmethod
    def of(cls, stream: BlockStream) -> Self:
        """Those of a stream."""
        return cls(stream.store, stream.recall, {layer: part.index for layer, part in stream.layers.items()})


def account(rows: Sequence[BlockStream]) -> MemoryAccount:
    """What streams keep and moved; of tokens those of the row with most of them."""
    parts = [part for row in rows for part in row.layers.values()]
    stores = [row.store for row in rows]
    recalls = [row.recall for row in rows if row.recall is not None]
    index = sum(part.index.digests.nbytes for part in parts)
    traffic = [vars(store.traffic) for store in stores]
    return MemoryAccount(
        {
            "device": sum(part.nbytes for part in parts),
            "host": index + sum(store.nbytes for store in stores) + sum(r.nbytes for r in recalls),
            "disk": sum(store.disk_bytes for store in stores) + sum(r.disk_bytes for r in recalls),
        },
        dropped_tokens=max((row.cuts.tokens(row.dropped) for row in rows), default=0),
        retrieved_tokens=max((row.retrieved_tokens for row in rows), default=0),
        ids_tokens=max((row.ids_tokens for row in rows), default=0),
        traffic=Traffic(**{name: sum(one[name] for one in traffic) for name in vars(Traffic())}),
    )


def state(stream: BlockStream, sealed: bool = True) -> State:
    """All that is needed to go on; the sealed blocks too, or (not `sealed`) without what a store on disk keeps."""
    stream.settle()
    tensors: dict[str, Tensor] = {}
    facts = {}
    for layer, part in stream.layers.items():
        found, facts[str(layer)] = _layer_state(part, sealed, stream.dropped)
        tensors |= {f"layer{layer}.{name}": x for name, x in found.items()}
    tensors |= {f"cuts.{name}": x for name, x in stream.cuts.state().items()}
    tensors["gone"] = torch.from_numpy(stream.gone)
    tensors["used"] = torch.tensor(sorted(stream.used.items()), dtype=torch.int64).reshape(-1, 2)
    cited = [[block, mass] for block, mass in stream.done.cited.items()]
    kept = {"pad": stream.pad, "cursor": asdict(stream.done.cursor), "dropped": sorted(stream.dropped)}
    kept |= {"bare": sorted(stream.bare), "cited": cited, "layers": facts, "pins": [asdict(p) for p in stream.pins]}
    if stream.recall is not None:
        kept |= {"recall": [asdict(pair) for pair in stream.recall.pairs], "recalled": sorted(stream.recalled)}
        if sealed:
            tensors["recall"] = stream.recall.joined()
    return tensors, kept


def _layer_state(part: LayerMemory, sealed: bool, dropped: Collection[int]) -> State:
    now = part.now
    S = part.settings.sinks
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


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype of digests."""
    return next(name for name, one in DIGESTS.items() if one == dtype)


def _as_tensor(chosen: Any) -> Tensor | None:
    return None if chosen is None else torch.from_numpy(np.array(chosen))


def restore(
    stream: BlockStream,
    tensors: dict[str, Tensor],
    facts: dict[str, Any],
    device: torch.device,
    stored: StoredBlocks | None = None,
) -> None:
    """Let an empty stream become the one whose `state` this is; blocks that it lacks are in its store.

    `stored`: what the stream was made over, where it was offloaded and its store is as it left it.
    """
    stream.pad, stream.dropped = facts["pad"], frozenset(facts["dropped"])
    stream.cuts.load_state(named(tensors, "cuts."))
    stream.bare = frozenset(facts.get("bare", ()))
    stream.recalled = frozenset(facts.get("recalled", ()))
    if stream.recall is not None and "recall" in tensors:
        stream.recall.restore(tensors["recall"])
    stream.pins = tuple(Pin(**pin) for pin in facts.get("pins", ()))
    stream.pinned, stream.kept = held(stream.pins, partial(touching, stream.cuts), stream.dropped)
    if "gone" in tensors:
        stream.gone = tensors["gone"].numpy()
        stream.used = Counter(dict(tensors["used"].tolist()))
    found = _by_layer(tensors)
    if found and stored is None:
        prepare(stream.store, stream.settings, stream.plan, next(iter(found.values()))["tail_k"].dtype)
    for layer, part in found.items():
        placed = {name: x if name in ("digests", "records") else x.to(device) for name, x in part.items()}
        _restore_layer(stream, layer, placed, facts["layers"][str(layer)])
    if stored is None:
        _promise_digests(stream)
    else:
        for layer, index in stored.indices.items():
            stream.layers[layer].index = index
    progress = {layer: part.now for layer, part in stream.layers.items()}
    cited = {int(block): mass for block, mass in facts["cited"]}
    stream.done = Done(progress, Cursor(**facts["cursor"]), cited)


def _promise_digests(stream: BlockStream) -> None:
    """Let the layers have the digests that the store keeps, if it does, when they first ask."""
    widths = {i: part.index.digests.columns for i, part in sorted(stream.layers.items())}
    kept = stream.store.kept_digests(widths, stream.digest_dtype, stream.bare)
    if kept is not None:
        stream.gone = kept.gone
        for layer, load in kept.loads.items():
            stream.layers[layer].index.digests.promise(kept.rows, load, stream.gone)


def pairs(saved: list[dict[str, Any]] | None) -> list[KeyPair] | None:
    """The pairs of a saved index; None for a state without one."""
    if saved is None:
        return None
    return [KeyPair(p["layer"], p["kv_head"], p["dim"], tuple(p["heads"])) for p in saved]


def named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names are `prefix`NAME, by NAME."""
    return {full.removeprefix(prefix): x for full, x in tensors.items() if full.startswith(prefix)}


def _by_layer(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The tensors whose names are `layer`N.NAME, by N and NAME."""
    found: dict[int, dict[str, Tensor]] = {}
    for rest, x in named(tensors, "layer").items():
        layer, name = rest.split(".")
        found.setdefault(int(layer), {})[name] = x
    return found


def _restore_layer(stream: BlockStream, layer: int, found: dict[str, Tensor], counts: dict[str, int]) -> None:
    k = found["tail_k"]
    v = found["tail_v"]
    stream.add_layer(layer, counts["heads"], k, v)
    part = stream.layers[layer]
    tail = part.now.tail
    used = k.shape[2]
    mass = found["tail_mass"][: len(tail.mass)]
    tail.k[:, :, :used], tail.v[:, :, :used], tail.mass[:, :used] = k, v, mass
    first = part.raw_sink
    for mine, name in zip(part.raw_sinks, ("sinks_k", "sinks_v"), strict=True):
        mine[:, :, first : first + found[name].shape[2]] = found[name]
    if "records" in found:
        part.index.digests.restore(found["digests"], stream.gone)
        stream.store.restore(layer, found["records"], stream.gone)
    chosen, slots = (found[name].cpu().numpy() if name in found else None for name in ("chosen", "slots"))
    at = {name: counts[name] for name in COUNTS}
    part.now = LayerProgress(
        tail, chosen=chosen, slots=slots, mass=found.get("mass"), queries=found.get("queries"), **at
    )
