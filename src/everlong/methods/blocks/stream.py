"""One stream of a block memory: its layers, its store, what is committed, and what was decided about its blocks.

InfLLM (arXiv 2402.04617). Letters: H query heads, G kv heads, n tokens, D, E head dims, S sinks, M columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.methods.blocks.boundaries import BlockBoundaries, touching, within
from everlong.methods.blocks.cells import Cursor
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.layer import LayerMemory
from everlong.methods.blocks.layout import lane, prepare
from everlong.methods.blocks.pins import Pin, check, held, with_pin
from everlong.methods.blocks.progress import LayerProgress, Shape
from everlong.methods.blocks.recall.index import RecallIndex
from everlong.models.layout import ModelLayout
from everlong.ops.spans import Ints
from everlong.storage.base import Store
from everlong.storage.growable_rows import NONE


@dataclass(frozen=True, eq=False)
class Done:
    """All that a commit makes valid at once: how far each layer is, where the cells stand, what was cited."""

    progress: dict[int, LayerProgress] = field(default_factory=dict)
    cursor: Cursor = field(default_factory=Cursor)
    cited: dict[int, float] = field(default_factory=dict)
    """Attention mass per block over layers, heads and answering tokens since the citations were last forgotten."""


@dataclass(eq=False)
class BlockStream:
    """One stream: its store, its layers, and where its cells stand."""

    settings: BlockSettings
    plan: ModelLayout
    digest_dtype: torch.dtype
    store: Store
    cuts: BlockBoundaries
    """Where its blocks begin."""
    recall: RecallIndex | None = None
    """The keys that questions are compared with, where the model's retrieval heads are known."""
    pad: int = 0
    layers: dict[int, LayerMemory] = field(default_factory=dict)
    done: Done = field(default_factory=Done)
    dropped: frozenset[int] = frozenset()
    """Blocks that can not come back: forgotten, damaged, or given up for room."""
    pinned: frozenset[int] = frozenset()
    """Blocks that every query attends to."""
    kept: frozenset[int] = frozenset()
    """Blocks that are never given up for room."""
    bare: frozenset[int] = frozenset()
    """Blocks that gave way and of which ids and the recall row are kept."""
    gone: Ints = field(default_factory=lambda: NONE)
    """Dropped and bare blocks whose room is used by others, ascending."""
    used: Counter[int] = field(default_factory=Counter)
    """How often each block was chosen, over cells and layers."""
    pins: tuple[Pin, ...] = ()
    """The spans that `pinned` and `kept` come from; blocks of them may still have to be sealed."""
    recalled: frozenset[int] = frozenset()
    """Blocks that were recalled for a question; every query attends to them until the next one."""

    # A step.

    def layer_memory(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> LayerMemory:
        """The memory of a layer, made at the first step."""
        if not self.layers:
            prepare(self.store, self.settings, self.plan, k.dtype)
        if layer not in self.layers:
            self.add_layer(layer, q.shape[1], k, v)
        return self.layers[layer]

    def add_layer(self, layer: int, heads: int, k: Tensor, v: Tensor) -> None:
        """Make an empty memory for a layer with `heads` query heads, and keys and values [B, G, n, D] like these."""
        sizes = heads, k.shape[1], k.shape[3], v.shape[3]
        shape = Shape(*sizes, k.dtype, k.device, self.digest_dtype, self.plan.ranks)
        self.layers[layer] = LayerMemory(self.settings, layer, shape, self.store, self.cuts, self.recall)

    def keep_sealed(self) -> None:
        """Hand the blocks that the step has sealed to the store for good."""
        parts = [self.layers[i] for i in sorted(self.layers)]
        blocks = self.cuts.before(min((part.now.pending for part in parts), default=0))
        self.store.commit(blocks, lambda n: torch.cat([part.index.digests.row(n) for part in parts]))
        if self.recall is not None:
            self.recall.commit(blocks)

    @property
    def sealed(self) -> int:
        """Blocks that are stored, those that were dropped included."""
        return min((self.cuts.before(p.pending) for p in self.done.progress.values()), default=0)

    @property
    def retrieved_tokens(self) -> int:
        """Tokens of blocks that the newest token attended to."""
        chosen = [self.cuts.tokens(p.chosen[0]) for p in self.done.progress.values() if p.chosen is not None]
        return max(chosen, default=0)

    @property
    def ids_tokens(self) -> int:
        """Stored tokens of which only ids and recall rows are kept."""
        if self.settings.keep == "ids":
            return self.cuts.tokens(frozenset(range(self.sealed)) - self.dropped)
        return self.cuts.tokens(self.bare)

    def sink_keys(self, layer: int) -> Float[Tensor, "G n D"]:
        """The raw keys of the sinks that have left the window."""
        part = self.layers[layer]
        done = self.done.progress.get(layer)
        first = part.raw_sink
        held = 0 if done is None else min(self.settings.sinks, done.held)
        return part.raw_sinks[0][0, :, first : first + held]

    # Its blocks by their tokens.

    def block_range(self, block: int) -> tuple[int, int]:
        """First token of a block, and the one after its last."""
        return self.cuts.start(block), self.cuts.start(block + 1)

    def blocks_within(self, first: int, end: int) -> range:
        """The blocks that hold no token but `first` .. `end - 1`."""
        return within(self.cuts, first, end)

    def blocks_touching(self, first: int, end: int) -> range:
        """The blocks that hold a token of `first` .. `end - 1`, sealed or to be sealed."""
        return touching(self.cuts, first, end)

    def forgettable(self, seen: int) -> tuple[int, int]:
        """The tokens that are in stored blocks and nowhere else: the first, and the one after the last."""
        S = self.settings.sinks
        oldest = min(lane(self.settings, self.plan, p.pattern, 1).oldest(seen) for p in self.plan.layers)
        return S, max(S, min(oldest, self.cuts.start(self.sealed)))

    # What is decided about them.

    def drop(self, blocks: Iterable[int]) -> None:
        """Let these blocks never come back; the report counts their tokens as dropped, and they are not cited."""
        gone = frozenset(blocks)
        if gone <= self.dropped:
            return
        self.dropped |= gone
        self.bare -= gone
        self.recalled -= gone
        if self.recall is not None:
            self.recall.erase(gone)
        self.set_pins(self.pins)
        self.done = replace(self.done, cited={b: m for b, m in self.done.cited.items() if b not in gone})

    def pin(self, pin: Pin) -> list[int]:
        """Hold the blocks that `pin` touches, those that are still to be sealed too; their numbers.

        ConfigError where more would always be attended to than there are slots, CapabilityError for a dropped block.
        """
        touched = self.blocks_touching(pin.first, pin.end)
        if self.settings.keep == "ids" or self.bare.intersection(touched):
            raise CapabilityError(
                f"pin: of the tokens {pin.first}:{pin.end} only ids are kept, and no block to attend to; ask for them, "
                "or read them again with keep=blocks and more room"
            )
        if self.cuts.known < pin.end:
            raise CapabilityError(
                f"pin: the blocks of the tokens {pin.first}:{pin.end} are not cut yet (cut=surprise, "
                f"{self.cuts.known} tokens read); pin what was read"
            )
        if gone := sorted(self.dropped.intersection(touched)):
            first, end = self.block_range(gone[0])
            raise CapabilityError(
                f"pin: block {gone[0]} was dropped and can not come back; pin a span without the tokens {first}:{end}"
            )
        self.set_pins(with_pin(self.pins, pin))
        return list(touched)

    def set_pins(self, pins: Iterable[Pin]) -> None:
        """Hold the blocks of these pins and of no others; the next token chooses anew."""
        pins = tuple(pins)
        pinned, kept = held(pins, partial(touching, self.cuts), self.dropped)
        check(pinned, self.settings.top_k)
        self.pins = pins
        self.pinned = pinned
        self.kept = kept
        self._choose_anew()

    def hold_recalled(self, blocks: Iterable[int]) -> tuple[int, ...]:
        """Let every query attend to these blocks too, as far as pins leave slots, until others are held; which.

        The next token chooses anew. The first of `blocks` come first.
        """
        room = self.settings.top_k - len(self.pinned)
        absent = self.dropped | self.bare | self.pinned
        taken = [n for n in blocks if n not in absent and self.settings.keep == "blocks"][: max(0, room)]
        if frozenset(taken) != self.recalled:
            self.recalled = frozenset(taken)
            self._choose_anew()
        return tuple(taken)

    def _choose_anew(self) -> None:
        self.done = replace(self.done, cursor=replace(self.done.cursor, changed=True))

    def forget_citations(self) -> None:
        """Begin to count anew what is attended to."""
        self.done = replace(self.done, cited={})

    def give_up(self, blocks: Collection[int], ids: bool = False) -> None:
        """Drop these sealed blocks, and let others use their room (on the disk: after `DiskStore.reuse`).

        With `ids` they are not dropped: their ids and their recall rows stay, so that they can be read again.
        """
        if ids:
            self.bare |= frozenset(blocks)
            self.recalled -= self.bare
        else:
            self.drop(blocks)
        self.gone = np.union1d(self.gone, np.fromiter(blocks, np.int64))
        self.settle()
        for block in blocks:
            self.used.pop(block, None)

    def settle(self) -> None:
        """Let go of the blocks that were given up; nothing to do unless an interrupt came while they were."""
        if not len(self.gone):
            return
        count = self.sealed
        for part in self.layers.values():
            part.index.digests.without(self.gone, count)
        self.store.without(self.gone, count)

    def fork(self) -> BlockStream:
        """An independent stream that has come as far; sealed blocks are shared."""
        store = self.store.fork()
        cuts = self.cuts.copy()
        recall = None if self.recall is None else self.recall.fork()
        layers = {i: m.fork(self.done.progress[i], store, cuts, recall) for i, m in self.layers.items()}
        done = Done({i: m.now for i, m in layers.items()}, self.done.cursor, dict(self.done.cited))
        parts = {"store": store, "cuts": cuts, "recall": recall, "layers": layers, "done": done}
        return replace(self, **parts, used=Counter(self.used))
