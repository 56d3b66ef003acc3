"""The block memory of a cache: its rows and layers, what is committed, and what is said of it.

InfLLM (arXiv 2402.04617). Letters: B rows, H query heads, G kv heads, T new tokens, M columns of the arena, D, E head
dims, S sinks, W window, L tokens per block at most, K chosen blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.window import ENDLESS, Lane
from everlong.errors import CapabilityError
from everlong.methods.blocks.boundaries import SurpriseCuts, longest_forward, make_cuts, touching, within
from everlong.methods.blocks.cells import Cursor
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.layer import LayerMemory, Progress, Shape
from everlong.methods.blocks.pins import Pin, check, held, with_pin
from everlong.methods.blocks.recall.files import CHECKSUM_BYTES
from everlong.methods.blocks.recall.index import KeyPair, RecallIndex
from everlong.methods.blocks.recall.scout import Scout
from everlong.methods.blocks.step import BlockStep, Call, Row
from everlong.models.layout import LayerPlan, Pattern, RotaryPlan
from everlong.ops.spans import Ints
from everlong.storage.base import HostStore, Store, Traffic
from everlong.storage.codecs import Codec
from everlong.storage.disk import DiskStore

if TYPE_CHECKING:
    from everlong.cache.step import Step


RECALL_ON_RANKS = (
    "recall=question: the votes of retrieval heads that are shared out to ranks are not summed; give recall=layer, or "
    "load the model whole"
)


@dataclass(frozen=True, eq=False)
class Done:
    """All that a commit makes valid at once."""

    progress: list[dict[int, Progress]]
    cursors: list[Cursor]
    cited: list[dict[int, float]]


class BlockMemory:
    """What leaves the window of the full-attention layers; natively sliding layers keep to their own window."""

    retrieves: ClassVar[bool] = True
    digest_dtype: torch.dtype = torch.bfloat16
    """Of new streams; float32 in those from before."""

    def __init__(self, settings: BlockSettings, plan: RotaryPlan) -> None:
        self.settings, self.plan = settings, plan
        self.layers = {p.index for p in plan.layers if p.pattern == Pattern()}
        self._check(plan)
        self.rows: list[Row] = []
        self.answering = False
        self.make_store: Callable[[], Store] = HostStore
        self.make_recall: MakeRecall = no_recall
        self.scout: Scout | None = None
        self._done = Done([], [], [])
        self._step: BlockStep | None = None

    def _check(self, plan: RotaryPlan) -> None:
        full = [p for p in plan.layers if p.index in self.layers]
        reason = None
        if plan.alibi:
            reason = "its scores have ALiBi biases, and a memory at one distance was never tried with them"
        elif not full:
            reason = "every layer has a native window, so that nothing could be asked for again"
        elif any(p.latent for p in full):
            reason = "it caches latent vectors (MLA), which are no keys that blocks could be compared by"
        elif any(p.repeated for p in full):
            reason = "its attention is given repeated keys, not those that it caches"
        elif any(p.source != p.index for p in full):
            reason = "layers share their keys, and each would need a choice of its own over another layer's blocks"
        if self.settings.per_head and plan.ranks is not None:
            raise CapabilityError(
                f"per_head=True: the model's heads are shared out to {plan.ranks.size} ranks, which would then hold "
                "other blocks each; leave it out, or load the model whole"
            )
        if reason is not None:
            raise CapabilityError(f"blocks: this model is not handled: {reason}; use the method sinks")

    def lane(self, pattern: Pattern, chunk: int) -> Lane:
        """How the arenas of layers with this native pattern are laid out."""
        s = self.settings
        if pattern != Pattern():
            return Lane(pattern, 0, ENDLESS, chunk)
        behind = 0 if s.positions == "far" else s.block + max(s.exec_chunk, s.choose_every)
        return Lane(pattern, 0, s.window, chunk, behind=behind)

    # A step.

    def check(self, seen: int, tokens: int) -> None:
        """CapabilityError where a forward over `tokens` new tokens behind `seen` lacks what it needs."""
        for cuts, pad in [(row.cuts, row.pad) for row in self.rows] or [(make_cuts(self.settings), 0)]:
            cuts.check(seen - pad, tokens)

    @property
    def chunk_limit(self) -> int:
        """Tokens that one forward takes at most."""
        return longest_forward(self.settings)

    @property
    def wants_surprisals(self) -> bool:
        """Whether every forward is to be followed by `tell`."""
        return self.settings.cut == "surprise"

    def tell(self, surprisals: Float[Tensor, "B T"]) -> None:
        """Take -log p (nats) of the tokens that the last forward read; NaN where it is not known."""
        for row, values in zip(self.rows, surprisals, strict=True):
            assert isinstance(row.cuts, SurpriseCuts)
            row.cuts.tell(values.double().cpu().numpy())

    def tell_lost(self, seen: int) -> None:
        """Let the surprisals of those of the `seen` tokens that were not told be unknown for good."""
        for row in self.rows:
            assert isinstance(row.cuts, SurpriseCuts)
            row.cuts.tell(np.full(seen - row.pad - row.cuts.known, np.nan))

    def begin(self, step: Step, pads: Ints | None) -> None:
        """Prepare a step."""
        self.settle()
        self._step = BlockStep(self, step, pads)
        for n, row in enumerate(self.rows):
            if (pad := 0 if pads is None else int(pads[n])) != row.pad:
                row.pad, row.cuts = pad, make_cuts(self.settings, pad - step.seen)
        for part in (part for row in self.rows for part in row.layers.values() if not part.filled):
            part.prefetch()

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """Attention of a layer over its columns `k`, `v` [B, G, M, D] and what the memory brings."""
        assert self._step is not None
        call = Call(self._step, layer, scale, softcap, s_aux)
        if self.scout is not None:
            return call.scouted(self.scout, self.rows[0], q, k, v)
        self._make_rows(len(q))
        out = [call.row(n, row, q[n : n + 1], k[n : n + 1], v[n : n + 1]) for n, row in enumerate(self.rows)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _make_rows(self, rows: int) -> None:
        while len(self.rows) < rows:
            n = len(self.rows)
            pads = self._step.pads if self._step is not None else None
            pad = 0 if pads is None else int(pads[n])
            recall = self.make_recall(self, None)
            if recall is not None and self.plan.ranks is not None:
                raise CapabilityError(RECALL_ON_RANKS)
            self.rows.append(Row(self.make_store(), {}, pad=pad, cuts=make_cuts(self.settings, pad), recall=recall))

    def layer_memory(self, row: Row, layer: int, q: Tensor, k: Tensor, v: Tensor) -> LayerMemory:
        """The memory of a layer, made at the first step."""
        if not row.layers:
            self.prepare(row.store, k.dtype)
        if layer not in row.layers:
            sizes = q.shape[1], k.shape[1], k.shape[3], v.shape[3]
            self.add_layer(row, layer, Shape(*sizes, k.dtype, k.device, self.digest_dtype, self.plan.ranks))
        return row.layers[layer]

    def prepare(self, store: Store, dtype: torch.dtype) -> None:
        """Tell a fresh store what it will hold of each layer."""
        for index in sorted(self.layers):
            key, value = self.plan.layers[index].key, self.plan.layers[index].value
            assert key is not None
            assert value is not None
            store.add(index, Codec(self.settings.codec, key[0], self.settings.block, key[1], value[1], dtype))
        if isinstance(store, DiskStore):
            store.resident.rule(self.settings.resident, self.settings.evict, self.settings.score_decay)

    def add_layer(self, row: Row, layer: int, shape: Shape) -> None:
        """Make an empty memory for a layer of a row."""
        row.layers[layer] = LayerMemory(self.settings, layer, shape, row.store, row.cuts, row.recall)

    def done(self, row: int, layer: int) -> Progress | None:
        """What was committed of a layer; None before its first commit."""
        return self._done.progress[row].get(layer) if row < len(self._done.progress) else None

    def pending_keys(self, layer: int, first: int, end: int) -> tuple[int, Float[Tensor, "G n D"] | None]:
        """(tokens that left the window, keys of those of the tokens `first` .. `end` - 1 among them, not rotated).

        Of a single row, and of tokens that are in no block yet.
        """
        done = self.done(0, layer)
        if done is None or first >= done.held:
            return 0 if done is None else done.held, None
        column = done.at - done.pending
        return done.held, done.tail.k[0, :, first + column : min(end, done.held) + column]

    def cursor(self, row: int) -> Cursor:
        """Where the cells of a row stand."""
        return self._done.cursors[row] if self._done.cursors else Cursor()

    def commit(self) -> None:
        """Make the step's changes part of the stream."""
        step = self._step
        assert step is not None
        progress = [{i: m.now for i, m in row.layers.items()} for row in self.rows]
        cursors = [step.cursor(n, row) for n, row in enumerate(self.rows)]
        for row in self.rows:
            self._keep(row)
        cited = [_added(old, self._of_all(new)) for old, new in zip(self._cited(), step.cited, strict=True)]
        self._done, self._step = Done(progress, cursors, cited), None
        for row, used in zip(self.rows, step.used, strict=True):
            row.used.update(used)

    def _of_all(self, mass: dict[int, float]) -> dict[int, float]:
        """The mass that blocks got from the heads of all ranks, without those that got none."""
        if self.plan.ranks is not None and mass:
            blocks = sorted(mass)
            total = self.plan.ranks.sum(torch.tensor([mass[n] for n in blocks], dtype=torch.float64))
            mass = dict(zip(blocks, total.tolist(), strict=True))
        return {block: got for block, got in mass.items() if got}

    def _keep(self, row: Row) -> None:
        """Hand the row's sealed blocks to its store for good."""
        parts = [row.layers[i] for i in sorted(row.layers)]
        blocks = min((part.sealed for part in parts), default=0)
        row.store.commit(blocks, lambda n: torch.cat([part.index.digests.row(n) for part in parts]))
        if row.recall is not None:
            row.recall.commit(blocks)

    def drop(self, blocks: Iterable[int], row: int = 0) -> None:
        """Let these blocks never come back; the report counts their tokens as dropped, and they are not cited."""
        mine, gone = self.rows[row], frozenset(blocks)
        if gone <= mine.dropped:
            return
        mine.dropped |= gone
        mine.bare -= gone
        mine.recalled -= gone
        if mine.recall is not None:
            mine.recall.erase(gone)
        self.set_pins(mine.pins, row)
        cited = [{b: m for b, m in found.items() if n != row or b not in gone} for n, found in enumerate(self._cited())]
        self._done = replace(self._done, cited=cited)

    def pin(self, pin: Pin, row: int = 0) -> list[int]:
        """Hold the blocks that `pin` touches, those that are still to be sealed too; their numbers.

        ConfigError where more would always be attended to than there are slots, CapabilityError for a dropped block.
        """
        mine, touched = self.rows[row], self.blocks_touching(pin.first, pin.end, row)
        if self.settings.keep == "ids" or mine.bare.intersection(touched):
            raise CapabilityError(
                f"pin: of the tokens {pin.first}:{pin.end} only ids are kept, and no block to attend to; ask for them, "
                "or read them again with keep=blocks and more room"
            )
        if mine.cuts.known < pin.end:
            raise CapabilityError(
                f"pin: the blocks of the tokens {pin.first}:{pin.end} are not cut yet (cut=surprise, "
                f"{mine.cuts.known} tokens read); pin what was read"
            )
        if gone := sorted(mine.dropped.intersection(touched)):
            raise CapabilityError(
                f"pin: block {gone[0]} was dropped and can not come back; pin a span without the tokens "
                f"{self.block_range(gone[0])[0]}:{self.block_range(gone[0])[1]}"
            )
        self.set_pins(with_pin(mine.pins, pin), row)
        return list(touched)

    def set_pins(self, pins: Iterable[Pin], row: int = 0) -> None:
        """Hold the blocks of these pins and of no others; the next token chooses anew."""
        mine, pins = self.rows[row], tuple(pins)
        pinned, kept = held(pins, partial(touching, mine.cuts), mine.dropped)
        check(pinned, self.settings.top_k)
        mine.pins, mine.pinned, mine.kept = pins, pinned, kept
        cursors = [replace(c, changed=n == row or c.changed) for n, c in enumerate(self._done.cursors)]
        self._done = replace(self._done, cursors=cursors)

    def sink_keys(self, layer: int, row: int = 0) -> Float[Tensor, "G n D"]:
        """The raw keys of the sinks that have left the window."""
        part, done = self.rows[row].layers[layer], self.done(row, layer)
        first = part.raw_sink
        held = 0 if done is None else min(self.settings.sinks, done.held)
        return part.raw_sinks[0][0, :, first : first + held]

    def hold_recalled(self, blocks: Iterable[int], row: int = 0) -> tuple[int, ...]:
        """Let every query attend to these blocks too, as far as pins leave slots, until others are held; which.

        The next token chooses anew. The first of `blocks` come first.
        """
        mine = self.rows[row]
        room = self.settings.top_k - len(mine.pinned)
        absent = mine.dropped | mine.bare | mine.pinned
        taken = [n for n in blocks if n not in absent and self.settings.keep == "blocks"][: max(0, room)]
        if frozenset(taken) != mine.recalled:
            mine.recalled = frozenset(taken)
            cursors = [replace(c, changed=n == row or c.changed) for n, c in enumerate(self._done.cursors)]
            self._done = replace(self._done, cursors=cursors)
        return tuple(taken)

    def give_up(self, blocks: Collection[int], row: int = 0, ids: bool = False) -> None:
        """Drop these sealed blocks, and let others use their room (on the disk: after `DiskStore.reuse`).

        With `ids` they are not dropped: their ids and their recall rows stay, so that they can be read again.
        """
        here = self.rows[row]
        if ids:
            here.bare |= frozenset(blocks)
            here.recalled -= here.bare
        else:
            self.drop(blocks, row)
        here.gone = np.union1d(here.gone, np.fromiter(blocks, np.int64))
        self.settle()
        for block in blocks:
            here.used.pop(block, None)

    def settle(self) -> None:
        """Let go of the blocks that were given up; nothing to do unless an interrupt came while they were."""
        for n, row in enumerate(self.rows):
            if not len(row.gone):
                continue
            count = self.sealed(n)
            for part in row.layers.values():
                part.index.digests.without(row.gone, count)
            row.store.without(row.gone, count)

    def check_crop(self, seen: int, target: int, pads: Ints | None) -> None:
        """Always refused: what tokens read moved the mass of earlier ones."""
        raise CapabilityError(
            f"crop({target - seen}): blocks keeps what later tokens attended to and cannot take it back; "
            "fork before you read on, or use greedy search or sampling"
        )

    def compressed_tokens(self, seen: int) -> int:
        """None: every block is kept whole."""
        return 0

    def dropped_tokens(self, seen: int) -> int:
        """Tokens of dropped blocks (of the row with most of them)."""
        return max((row.cuts.tokens(row.dropped) for row in self.rows), default=0)

    def ids_tokens(self) -> int:
        """Stored tokens of which only ids and recall rows are kept (of the row with most of them)."""
        if self.settings.keep == "ids":
            sealed = [(row, frozenset(range(self.sealed(n)))) for n, row in enumerate(self.rows)]
            return max((row.cuts.tokens(every - row.dropped) for row, every in sealed), default=0)
        return max((row.cuts.tokens(row.bare) for row in self.rows), default=0)

    def _cited(self) -> list[dict[int, float]]:
        return self._done.cited or [{} for _ in self.rows]

    def abandon(self) -> None:
        """Forget a step that failed: counters go back, and slots that may hold blocks of it are emptied."""
        self._step = None
        if not self._done.progress:
            self.rows = []
        for row in self.rows if self.scout is None else ():
            for memory in row.layers.values():
                memory.empty_slots()

    # What is kept.

    @property
    def retrieved_tokens(self) -> int:
        """Tokens of blocks that the newest token attended to."""
        rows = zip(self.rows, self._done.progress, strict=False)
        chosen = [row.cuts.tokens(p.chosen[0]) for row, at in rows for p in at.values() if p.chosen is not None]
        return max(chosen, default=0)

    def citations(self, row: int = 0) -> dict[int, float]:
        """Attention mass per block over layers, heads and answering tokens since the last `forget_citations`."""
        return dict(self._done.cited[row]) if self._done.cited else {}

    def forget_citations(self) -> None:
        """Begin to count anew."""
        self._done = replace(self._done, cited=[{} for _ in self.rows] if self._done.cited else [])

    def block_range(self, block: int, row: int = 0) -> tuple[int, int]:
        """First token of a block, and the one after its last."""
        cuts = self.rows[row].cuts
        return cuts.start(block), cuts.start(block + 1)

    def blocks_within(self, first: int, end: int, row: int = 0) -> range:
        """The blocks that hold no token but `first` .. `end - 1`."""
        return within(self.rows[row].cuts, first, end) if self.rows else range(0)

    def blocks_touching(self, first: int, end: int, row: int = 0) -> range:
        """The blocks that hold a token of `first` .. `end - 1`, sealed or to be sealed."""
        return touching(self.rows[row].cuts, first, end)

    def forgettable(self, seen: int, row: int = 0) -> tuple[int, int]:
        """The tokens that are in stored blocks and nowhere else: the first, and the one after the last."""
        S, oldest = self.settings.sinks, min(self.lane(p.pattern, 1).oldest(seen) for p in self.plan.layers)
        if not self.rows:
            return S, S
        return S, max(S, min(oldest, self.rows[row].cuts.start(self.sealed(row))))

    def sealed(self, row: int = 0) -> int:
        """Blocks of a row that are stored, those that were dropped included."""
        progress = self._done.progress[row].values() if row < len(self._done.progress) else ()
        return min((self.rows[row].cuts.before(p.pending) for p in progress), default=0)

    def planned_bytes(self, chunk: int) -> int:
        """Bytes of sinks, slots, pending tokens, masses and queries of one row that reads chunks of `chunk`."""
        s, total, size = self.settings, 0, self.plan.dtype.itemsize
        tail = s.block + max(s.exec_chunk, s.choose_every) + chunk
        columns = s.top_k * s.block + s.sinks * (1 if s.positions == "far" else 2) + tail
        for plan in (p for p in self.plan.layers if p.index in self.layers):
            masses = 0 if s.digest == "bounds" else tail + (self.lane(plan.pattern, chunk).capacity or 0)
            queries = s.pool * (plan.key or (0, 0))[1]
            total += columns * plan.numbers_per_token * size + self.plan.heads * (masses * 4 + queries * size)
        return total

    def row_bytes(self) -> tuple[int, int]:
        """Bytes of one block over all layers, in host memory and on the disk."""
        if self.settings.keep == "ids":
            return 0, 0
        stores = HostStore(), DiskStore([], writable=False)
        for store in stores:
            self.prepare(store, self.plan.dtype)
        return stores[0].row_bytes, stores[1].row_bytes

    @property
    def lies_on_disk(self) -> bool:
        """Whether stored blocks are in files, so that `state` cannot hold them."""
        return self.settings.keep == "blocks" and any(isinstance(row.store, DiskStore) for row in self.rows)

    def index_row_bytes(self) -> int:
        """Bytes of the digests of one block over all layers."""
        if self.settings.keep == "ids":
            return 0
        keys = [self.plan.layers[index].key or (0, 0) for index in self.layers]
        bounds = self.settings.digest == "bounds"
        return sum(self.digest_dtype.itemsize * dim * (2 * heads if bounds else self.plan.heads) for heads, dim in keys)

    def recall_row_bytes(self) -> int:
        """Bytes of one block in the recall index; 0 without one."""
        recall = self.rows[0].recall if self.rows else self.make_recall(self, None)
        return 0 if recall is None else recall.row_bytes + CHECKSUM_BYTES

    def bytes(self) -> dict[str, int]:
        """Bytes allocated by tier."""
        device = sum(m.nbytes for row in self.rows for m in row.layers.values())
        index = sum(m.index.digests.nbytes for row in self.rows for m in row.layers.values())
        recalls = [row.recall for row in self.rows if row.recall is not None]
        return {
            "device": device,
            "host": index + sum(row.store.nbytes for row in self.rows) + sum(r.nbytes for r in recalls),
            "disk": sum(row.store.disk_bytes for row in self.rows) + sum(r.disk_bytes for r in recalls),
        }

    @property
    def traffic(self) -> Traffic:
        """What the stores read and wrote, and what they found in memory."""
        every = [vars(row.store.traffic) for row in self.rows]
        return Traffic(**{name: sum(one[name] for one in every) for name in vars(Traffic())})

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is needed to go on; the sealed blocks too, or (not `sealed`) without what a store on disk keeps."""
        from everlong.methods.blocks import saved

        return saved.state(self, sealed)

    def restored(self, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device) -> BlockMemory:
        """A memory of the same settings with this state; blocks that it lacks are in the store."""
        from everlong.methods.blocks import saved

        return saved.restored(self, tensors, facts, device)

    def resume(self, progress: list[dict[int, Progress]], cursors: list[Cursor], cited: list[dict[int, float]]) -> None:
        """Take this as what was committed."""
        self._done = Done(progress, cursors, cited)

    def fresh(self) -> BlockMemory:
        """A memory of the same model and settings that holds nothing."""
        other = BlockMemory(self.settings, self.plan)
        other.make_store, other.make_recall = self.make_store, self.make_recall
        other.digest_dtype = self.digest_dtype
        return other

    def fork(self, rows: list[int] | None = None) -> BlockMemory:
        """An independent memory of the same rows, or of `rows` in this order; sealed blocks are shared."""
        other = BlockMemory(self.settings, self.plan)
        other.answering, other.digest_dtype = self.answering, self.digest_dtype
        for n in range(len(self.rows)) if rows is None else rows:
            old, store = self.rows[n], self.rows[n].store.fork()
            cuts = old.cuts.copy()
            recall = None if old.recall is None else old.recall.fork()
            layers = {i: m.fork(self._done.progress[n][i], store, cuts, recall) for i, m in old.layers.items()}
            made = {"store": store, "layers": layers, "cuts": cuts, "recall": recall, "used": Counter(old.used)}
            other.rows.append(replace(old, **made))
            other._done.progress.append({i: m.now for i, m in layers.items()})
            other._done.cursors.append(self.cursor(n))
            other._done.cited.append(dict(self._done.cited[n]))
        return other


MakeRecall = Callable[[BlockMemory, Sequence[KeyPair] | None], RecallIndex | None]
"""An index for a new row of the memory, of these pairs, or (None) of those of the model's retrieval heads."""


def no_recall(memory: BlockMemory, pairs: Sequence[KeyPair] | None) -> RecallIndex | None:
    """An index in host memory where a saved state had one; questions are not compared with keys otherwise."""
    return None if pairs is None else RecallIndex(pairs, memory.settings.block)


def _added(old: dict[int, float], new: dict[int, float]) -> dict[int, float]:
    return {key: old.get(key, 0.0) + new.get(key, 0.0) for key in {**old, **new}}
