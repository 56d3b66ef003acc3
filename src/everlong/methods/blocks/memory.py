"""The block memory of a cache: what leaves the window of each of its streams is kept in blocks.

InfLLM (arXiv 2402.04617). Letters: B streams (rows), H query heads, G kv heads, T new tokens, M columns of the arena,
D, E head dims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.cache.stream_memory import MemoryAccount
from everlong.cache.window import WindowLayout
from everlong.errors import CapabilityError
from everlong.methods.blocks import layout, saved
from everlong.methods.blocks.boundaries import SurpriseBoundaries, longest_forward, make_cuts
from everlong.methods.blocks.decode import TokenStep, decodes
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.recall.index import KeyPair, MakeRecall, no_recall
from everlong.methods.blocks.recall.scout import Scout
from everlong.methods.blocks.saved import StoredBlocks
from everlong.methods.blocks.step import BlockStep, LayerCall
from everlong.methods.blocks.stream import BlockStream, Done
from everlong.models.layout import LayerPlan, ModelLayout, Pattern
from everlong.models.ranks import Ranks
from everlong.ops.attend_token import takes
from everlong.ops.spans import Ints
from everlong.storage.base import HostStore, Store, Traffic

RECALL_ON_RANKS = (
    "recall=question: the votes of retrieval heads that are shared out to ranks are not summed; give recall=layer, or "
    "load the model whole"
)


class BlockMemory:
    """What leaves the window of the full-attention layers; natively sliding layers keep to their own window."""

    retrieves: ClassVar[bool] = True
    digest_dtype: torch.dtype = torch.bfloat16
    """Of new streams; float32 in those from before."""

    def __init__(
        self,
        settings: BlockSettings,
        plan: ModelLayout,
        make_store: Callable[[], Store] = HostStore,
        make_recall: MakeRecall = no_recall,
    ) -> None:
        layout.check_model(settings, plan)
        self.settings = settings
        self.plan = plan
        self.make_store = make_store
        self.make_recall = make_recall
        self.keeps_inputs = False
        self.layers = layout.served_layers(plan)
        self.chunk_limit = longest_forward(settings)
        """Tokens that one forward takes at most."""
        self.wants_surprisals = settings.cut == "surprise"
        """Whether every forward is to be followed by `tell`."""
        self.rows: list[BlockStream] = []
        self.answering = False
        self.scout: Scout | None = None
        self._step: BlockStep | None = None
        self.token: TokenStep | None = None

    def lane(self, pattern: Pattern, chunk: int) -> WindowLayout:
        """How the arenas of layers with this native pattern are laid out."""
        return layout.lane(self.settings, pattern, chunk)

    # A step.

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError where a forward over `tokens` new tokens behind `seen` lacks what it needs."""
        for cuts, pad in [(row.cuts, row.pad) for row in self.rows] or [(make_cuts(self.settings), 0)]:
            cuts.check(seen - pad, tokens)

    def tell(self, surprisals: Float[Tensor, "B T"]) -> None:
        """Take -log p (nats) of the tokens that the last forward read; NaN where it is not known."""
        for row, values in zip(self.rows, surprisals, strict=True):
            assert isinstance(row.cuts, SurpriseBoundaries)
            row.cuts.tell(values.double().cpu().numpy())

    def tell_lost(self, seen: int) -> None:
        """Let the surprisals of those of the `seen` tokens that were not told be unknown for good."""
        for row in self.rows:
            assert isinstance(row.cuts, SurpriseBoundaries)
            row.cuts.tell(np.full(seen - row.pad - row.cuts.known, np.nan))

    def begin(self, step: ForwardPlan, pads: Ints | None) -> None:
        """Prepare a step."""
        for row in self.rows:
            row.settle()
        self._step = BlockStep(self.settings, self.answering, step, pads)
        for n, row in enumerate(self.rows):
            if (pad := 0 if pads is None else int(pads[n])) != row.pad:
                row.pad, row.cuts = pad, make_cuts(self.settings, pad - step.seen)
        for part in (part for row in self.rows for part in row.layers.values() if not part.slots.filled):
            part.prefetch()
        self.token = None
        if self.scout is None and len(self.rows) == 1 and decodes(self._step, self.rows[0]):
            lane = step.arenas[min(self.layers)].lane
            self.token = TokenStep(self._step, self.rows[0], lane)

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """Attention of a layer over its columns `k`, `v` [B, G, M, D] and what the memory brings."""
        assert self._step is not None
        if self.token is not None and takes(q, k, v, softcap):
            return self.token.attend(layer, q, k, v, scale, s_aux)
        call = LayerCall(self._step, layer, scale, softcap, s_aux)
        if self.scout is not None:
            return call.scouted(self.scout, self.rows[0], q, k, v)
        while len(self.rows) < len(q):
            row = self._empty_row(self._new_store(None), self._step.pad(len(self.rows)))
            if row.recall is not None and self.plan.ranks is not None:
                raise CapabilityError(RECALL_ON_RANKS)
            self.rows.append(row)
        out = [call.row(n, row, q[n : n + 1], k[n : n + 1], v[n : n + 1]) for n, row in enumerate(self.rows)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _new_store(self, pairs: Sequence[KeyPair] | None) -> StoredBlocks:
        """An empty store, with a recall index of these pairs."""
        return StoredBlocks(self.make_store(), self.make_recall(self.settings, self.plan, pairs))

    def _empty_row(self, stored: StoredBlocks, pad: int) -> BlockStream:
        """A stream that has read nothing but `pad` tokens of padding, over this store."""
        cuts = make_cuts(self.settings, pad)
        return BlockStream(self.settings, self.plan, self.digest_dtype, stored.store, cuts, stored.recall, pad)

    def commit(self) -> None:
        """Make the step's changes part of the stream."""
        step = self._step
        assert step is not None
        for row in self.rows:
            row.keep_sealed()
        if self.token is not None:
            self.token.cite(step.cited[0])
        found = []
        for n, row in enumerate(self.rows):
            cited = _added(row.done.cited, _of_all(self.plan.ranks, step.cited[n]))
            found.append(Done({i: m.now for i, m in row.layers.items()}, step.cursor(row), cited))
        for row, done, used in zip(self.rows, found, step.used, strict=True):
            row.done = done
            row.used.update(used)
        self._step = self.token = None

    def abandon(self) -> None:
        """Forget a step that failed: counters go back, and slots that may hold blocks of it are emptied."""
        self._step = self.token = None
        if not any(row.done.progress for row in self.rows):
            self.rows = []
        for row in self.rows if self.scout is None else ():
            for memory in row.layers.values():
                memory.slots.empty()

    def check_crop(self, seen: int, target: int, pads: Ints | None) -> None:
        """Always refused: what tokens read moved the mass of earlier ones."""
        raise CapabilityError(
            f"crop({target - seen}): blocks keeps what later tokens attended to and cannot take it back; "
            "fork before you read on, or use greedy search or sampling"
        )

    # What is kept.

    def account(self, seen: int) -> MemoryAccount:
        """What is kept and was moved; of tokens those of the row with most of them."""
        parts = [part for row in self.rows for part in row.layers.values()]
        stores = [row.store for row in self.rows]
        recalls = [row.recall for row in self.rows if row.recall is not None]
        index = sum(part.index.digests.nbytes for part in parts)
        traffic = [vars(store.traffic) for store in stores]
        return MemoryAccount(
            {
                "device": sum(part.nbytes for part in parts),
                "host": index + sum(store.nbytes for store in stores) + sum(r.nbytes for r in recalls),
                "disk": sum(store.disk_bytes for store in stores) + sum(r.disk_bytes for r in recalls),
            },
            dropped_tokens=max((row.cuts.tokens(row.dropped) for row in self.rows), default=0),
            retrieved_tokens=max((row.retrieved_tokens for row in self.rows), default=0),
            ids_tokens=max((row.ids_tokens for row in self.rows), default=0),
            traffic=Traffic(**{name: sum(one[name] for one in traffic) for name in vars(Traffic())}),
        )

    @property
    def lies_on_disk(self) -> bool:
        """Whether stored blocks are in files, so that `state` cannot hold them."""
        return self.settings.keep == "blocks" and any(row.store.lies_on_disk for row in self.rows)

    def pending_keys(self, layer: int, first: int, end: int) -> tuple[int, Float[Tensor, "G n D"] | None]:
        """(tokens that left the window, keys of those of the tokens `first` .. `end` - 1 among them, not rotated).

        Of a single row, and of tokens that are in no block yet.
        """
        done = self.rows[0].done.progress.get(layer) if self.rows else None
        if done is None or first >= done.held:
            return 0 if done is None else done.held, None
        column = done.at - done.pending
        return done.held, done.tail.k[0, :, first + column : min(end, done.held) + column]

    def planned_bytes(self, chunk: int) -> int:
        """Bytes of sinks, slots, pending tokens, masses and queries of one row that reads chunks of `chunk`."""
        return layout.planned_bytes(self.settings, self.plan, chunk)

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on; the sealed blocks too, or (not `sealed`) without what a store on disk keeps."""
        tensors: dict[str, Tensor] = {}
        rows = []
        for n, row in enumerate(self.rows):
            found, facts = saved.state(row, sealed)
            tensors |= {f"row{n}.{name}": x for name, x in found.items()}
            rows.append(facts)
        return tensors, {"answering": self.answering, "digests": saved.name_of(self.digest_dtype), "rows": rows}

    def restored(
        self,
        tensors: dict[str, Tensor],
        facts: dict[str, Any],
        device: torch.device,
        stored: Sequence[StoredBlocks] = (),
    ) -> BlockMemory:
        """A memory of the same settings with this state; blocks that it lacks are in the store.

        `stored`: those of its rows, where they were offloaded and their stores are as they left them.
        """
        other = self.fresh()
        other.answering = facts["answering"]
        other.digest_dtype = saved.DIGESTS[facts.get("digests", "float32")]
        for n, kept in enumerate(facts["rows"]):
            over = stored[n] if stored else None
            row = other._empty_row(over or other._new_store(saved.pairs(kept.get("recall"))), 0)
            saved.restore(row, saved.named(tensors, f"row{n}."), kept, device, over)
            other.rows.append(row)
        return other

    def fresh(self) -> BlockMemory:
        """A memory of the same model and settings that holds nothing."""
        other = BlockMemory(self.settings, self.plan, self.make_store, self.make_recall)
        other.digest_dtype = self.digest_dtype
        return other

    def fork(self, rows: list[int] | None = None) -> BlockMemory:
        """An independent memory of the same rows, or of `rows` in this order; sealed blocks are shared."""
        make_store = HostStore if self.make_store().lies_on_disk else self.make_store
        other = BlockMemory(self.settings, self.plan, make_store)
        other.answering = self.answering
        other.digest_dtype = self.digest_dtype
        other.rows = [self.rows[n].fork() for n in (range(len(self.rows)) if rows is None else rows)]
        return other


def _of_all(ranks: Ranks | None, mass: dict[int, float]) -> dict[int, float]:
    """The mass that blocks got from the heads of all ranks, without those that got none."""
    if ranks is not None and mass:
        blocks = sorted(mass)
        total = ranks.sum(torch.tensor([mass[n] for n in blocks], dtype=torch.float64))
        mass = dict(zip(blocks, total.tolist(), strict=True))
    return {block: got for block, got in mass.items() if got}


def _added(old: dict[int, float], new: dict[int, float]) -> dict[int, float]:
    return {key: old.get(key, 0.0) + new.get(key, 0.0) for key in {**old, **new}}
