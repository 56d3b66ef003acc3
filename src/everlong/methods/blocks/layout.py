"""How a block memory is laid out: the layers that it serves, the geometry of their arenas, the bytes that it takes."""

from __future__ import annotations

import torch

from everlong.cache.window import ENDLESS, WindowLayout
from everlong.errors import CapabilityError
from everlong.methods.blocks.fields import BlockSettings
from everlong.models.layout import ModelLayout, Pattern
from everlong.storage.base import Store
from everlong.storage.codecs.base import Codec, codec_class
from everlong.storage.extent import HEADER_BYTES


def served_layers(plan: ModelLayout) -> set[int]:
    """The layers without a native window; where every layer slides, all of them."""
    served = _served(plan)
    return {p.index for p in plan.layers if p.pattern == served}


def _served(plan: ModelLayout) -> Pattern:
    """What layers see that a memory serves."""
    patterns = {p.pattern for p in plan.layers}
    (only,) = patterns if len(patterns) == 1 else (Pattern(),)
    return only if only.chunked is None else Pattern()


def check_model(settings: BlockSettings, plan: ModelLayout) -> None:
    """CapabilityError for a model that blocks cannot serve."""
    served = served_layers(plan)
    full = [p for p in plan.layers if p.index in served]
    reason = None
    if plan.alibi:
        reason = "its scores have ALiBi biases, and a memory at one distance was never tried with them"
    elif not full:
        reason = "every layer has a native window of another size or kind, so that nothing could be asked for again"
    elif (own := _served(plan).sliding) is not None and _reach(settings) > own:
        reason = (
            f"every layer sees its last {own} tokens alone, and window, blocks and sinks would reach over "
            f"{_reach(settings)} (give a smaller window, or fewer blocks)"
        )
    elif own is not None and settings.positions == "true":
        reason = f"every layer sees its last {own} tokens alone, and positions=true puts blocks farther away"
    elif any(p.latent and not p.joint for p in full):
        reason = "it caches latent vectors of several heads"
    elif any(p.joint for p in full) and plan.ranks is not None:
        reason = "it caches latent vectors (MLA), and its heads are shared out to ranks"
    elif any(p.repeated and not p.joint for p in full):
        reason = "its attention is given repeated keys, not those that it caches"
    elif any(p.source != p.index for p in full):
        reason = "layers share their keys, and each would need a choice of its own over another layer's blocks"
    if settings.per_head and plan.ranks is not None:
        raise CapabilityError(
            f"per_head=True: the model's heads are shared out to {plan.ranks.size} ranks, which would then hold "
            "other blocks each; leave it out, or load the model whole"
        )
    if reason is not None:
        raise CapabilityError(f"blocks: this model is not handled: {reason}; use the method sinks")


def _reach(settings: BlockSettings) -> int:
    """How far back the window and what stands before it reach."""
    pending = settings.block + max(settings.exec_chunk, settings.choose_every)
    return settings.window + pending + settings.block * settings.top_k + settings.sinks


def lane(settings: BlockSettings, plan: ModelLayout, pattern: Pattern, chunk: int) -> WindowLayout:
    """How the arenas of layers with this native pattern are laid out."""
    if pattern != _served(plan):
        return WindowLayout(pattern, 0, ENDLESS, chunk)
    behind = 0 if settings.positions == "far" else settings.block + max(settings.exec_chunk, settings.choose_every)
    return WindowLayout(Pattern(), 0, settings.window, chunk, behind=behind)


def codecs(settings: BlockSettings, plan: ModelLayout, dtype: torch.dtype) -> dict[int, Codec]:
    """What makes the records of each layer, in the layers' order."""
    found = {}
    for index in sorted(served_layers(plan)):
        key, value = plan.by_index[index].compared
        found[index] = codec_class(settings.codec)(key[0], settings.block, key[1], value[1], dtype)
    return found


def prepare(store: Store, settings: BlockSettings, plan: ModelLayout, dtype: torch.dtype) -> None:
    """Tell a fresh store what it will hold of each layer."""
    for index, codec in codecs(settings, plan, dtype).items():
        store.add(index, codec)
    if store.resident is not None:
        store.resident.rule(settings.resident, settings.evict, settings.score_decay)


def spare_queries(pool: int) -> int:
    """Room kept behind the newest `pool` queries, so that one more is written and not all of them again."""
    return pool // 4 + 1


def planned_bytes(settings: BlockSettings, plan: ModelLayout, chunk: int) -> int:
    """Bytes of sinks, slots, pending tokens, masses and queries of one stream that reads chunks of `chunk`."""
    s = settings
    total = 0
    size = plan.dtype.itemsize
    served = served_layers(plan)
    tail = s.block + max(s.exec_chunk, s.choose_every) + chunk
    columns = s.top_k * s.block + s.sinks * (1 if s.positions == "far" else 2) + tail
    for layer in (p for p in plan.layers if p.index in served):
        masses = 0 if s.digest == "bounds" else tail + (lane(s, plan, layer.pattern, chunk).capacity or 0)
        queries = (s.pool + spare_queries(s.pool)) * layer.compared[0][1]
        numbers = sum(heads * dim for heads, dim in layer.compared)
        total += columns * numbers * size + plan.heads * (masses * 4 + queries * size)
    return total


def block_bytes(settings: BlockSettings, plan: ModelLayout) -> tuple[int, int]:
    """Bytes of one stored block over all layers, in host memory and on the disk."""
    if settings.keep == "ids":
        return 0, 0
    found = codecs(settings, plan, plan.dtype).values()
    records = sum(codec.record_bytes for codec in found)
    return records, records + HEADER_BYTES * len(found)


def digest_bytes(settings: BlockSettings, plan: ModelLayout, dtype: torch.dtype) -> int:
    """Bytes of the digests of one block over all layers."""
    if settings.keep == "ids":
        return 0
    keys = [plan.by_index[index].compared[0] for index in served_layers(plan)]
    bounds = settings.digest == "bounds"
    return sum(dtype.itemsize * dim * (2 * heads if bounds else plan.heads) for heads, dim in keys)
