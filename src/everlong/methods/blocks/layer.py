"""The block memory of one layer of one stream.

A token's way: local (in the arena) -> held (its raw key among the sinks or the pending tokens) -> sealed (its block in
the store, a digest in the index). Everything that a step changes is either behind what is committed, or replaced and
not written to, so that a step that fails leaves the memory as it was.

Letters: H query heads, G kv heads, D, E head dims of keys and values, S sinks, W window, L tokens per block at most, K
chosen blocks, P pending columns, M columns of the arena, T queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.blocks.boundaries import Cuts
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.index import Index
from everlong.methods.blocks.recall.index import RecallIndex
from everlong.models.ranks import Ranks
from everlong.ops.rotary import Rotation, turn_by, turned
from everlong.ops.spans import Ints
from everlong.storage.base import Store, stored


@dataclass(frozen=True, eq=False)
class Shape:
    """What a layer's tensors look like."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device
    digests: torch.dtype = torch.bfloat16
    ranks: Ranks | None = None


class Tail(NamedTuple):
    """Pending tokens: raw keys and values [1, G, P, D], and the mass that each got [H, P] (with bounds [0, P])."""

    k: Tensor
    v: Tensor
    mass: Tensor


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a layer has come; replaced as a whole.

    Tokens below `held` have left the window; those below `weighed` have all the mass that they will get. `pending` is
    the first pending token, in column `at` of `tail`. `chosen` [C, n] are the blocks of the present cell, `slots`
    [C, K] which block lies where (-1: none), placed in the frame that begins at `base`. `mass` [1, H, m] belongs to
    the newest m tokens; `queries` [H, n, D] are the newest queries, turned to the memory's distance.
    """

    tail: Tail
    pending: int
    at: int = 0
    held: int = 0
    weighed: int = 0
    chosen: Ints | None = None
    slots: Ints | None = None
    base: int = 0
    mass: Tensor | None = None
    queries: Tensor | None = None

    @property
    def pending_tokens(self) -> int:
        """Held tokens that are in no block yet, sinks apart."""
        return max(0, self.held - self.pending)


class LayerMemory:
    """Sinks, pending tokens and slots of chosen blocks, with the index; the store is shared by the layers."""

    def __init__(
        self,
        settings: BlockSettings,
        layer: int,
        shape: Shape,
        store: Store,
        cuts: Cuts,
        recall: RecallIndex | None = None,
    ) -> None:
        self.settings, self.layer, self.shape, self.store, self.cuts = settings, layer, shape, store, cuts
        self.recall = recall if recall is not None and layer in recall.layers else None
        self.index = Index(settings, shape.heads, shape.kv_heads, shape.key_dim, shape.digests, shape.ranks)
        S, K, L = settings.sinks, settings.top_k, settings.block
        self.front = self._pair(K * L + S)
        self.raw_sinks = self.front if settings.positions == "far" else self._pair(S)
        self.tags: list[list[tuple[int, int | None, int] | None]] = [[None] * K for _ in range(self.index.groups)]
        self.sink_place: int | None = None
        self.filled = False
        self.now = Progress(self._tail(0), pending=S)

    def _tail(self, tokens: int) -> Tail:
        """An empty tail with room for `tokens` besides what is ever pending at the start of a step."""
        s = self.settings
        columns = s.block + max(s.exec_chunk, s.choose_every) + tokens
        weighed = 0 if self.index.bounds else self.shape.heads
        return Tail(*self._pair(columns), self._empty(weighed, columns, dtype=torch.float32))

    def _empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(*shape, dtype=dtype, device=self.shape.device)

    def _pair(self, columns: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, G, columns, dim]; zeros, because an unused slot is multiplied by a weight of 0."""
        s = self.shape
        k, v = (self._empty(1, s.kv_heads, columns, dim, dtype=s.dtype) for dim in (s.key_dim, s.value_dim))
        return k.zero_(), v.zero_()

    @property
    def first_sink(self) -> int:
        """The column of `front` in which the sinks begin; slots lie before it."""
        return self.settings.top_k * self.settings.block

    @property
    def raw_sink(self) -> int:
        """The column of `raw_sinks` in which the sinks begin."""
        return self.first_sink if self.raw_sinks is self.front else 0

    @property
    def sealed(self) -> int:
        """Blocks so far."""
        return self.cuts.before(self.now.pending)

    @property
    def chosen_tokens(self) -> int:
        """Tokens in the slots, which end where the sinks begin."""
        return 0 if self.now.chosen is None else self.cuts.tokens(self.now.chosen[0])

    @property
    def chosen_blocks(self) -> set[int]:
        """The blocks of the present cell, whoever chose them."""
        return set() if self.now.chosen is None else set(self.now.chosen.ravel().tolist())

    # A step: begin, then for each cell hold, seal, choose, fill, weigh. What it makes is in `now`.

    def begin(self, done: Progress, tokens: int) -> None:
        """Go on from `done`, with room for `tokens` more: what is pending moves to a fresh tail when it must."""
        self.now, used = done, done.pending_tokens
        if done.at + used + tokens <= done.tail.mass.shape[1]:
            return
        fresh, live = self._tail(tokens), slice(done.at, done.at + used)
        for new, old in ((fresh.k, done.tail.k), (fresh.v, done.tail.v)):
            new[:, :, :used] = old[:, :, live]
        fresh.mass[:, :used] = done.tail.mass[:, live]
        self.now = replace(done, tail=fresh, at=0)

    def hold(self, k: Float[Tensor, "1 G n D"], v: Float[Tensor, "1 G n E"]) -> None:
        """Take the raw keys and the values of the tokens that leave the window next."""
        S, now, n = self.settings.sinks, self.now, k.shape[2]
        early = min(max(0, S - now.held), n)
        if early:
            first = now.held + self.raw_sink
            for mine, x in zip(self.raw_sinks, (k, v), strict=True):
                mine[:, :, first : first + early] = x[:, :, :early]
        if early < n:
            column = now.at + max(now.held, S) - now.pending
            for mine, x in ((now.tail.k, k), (now.tail.v, v)):
                mine[:, :, column : column + n - early] = x[:, :, early:]
        self.now = replace(now, held=now.held + n)

    def weigh(self, mass: Float[Tensor, "H n"]) -> None:
        """Take the final mass of the tokens that have left the window of every query."""
        S, now, n = self.settings.sinks, self.now, mass.shape[1]
        early = min(max(0, S - now.weighed), n)
        column = now.at + max(now.weighed, S) - now.pending
        now.tail.mass[:, column : column + n - early] = mass[:, early:]
        self.now = replace(now, weighed=now.weighed + n)

    def seal(self, blocks: int) -> None:
        """Move pending tokens to the store until there are `blocks` blocks."""
        lengths = (self.cuts.start(n + 1) - self.cuts.start(n) for n in range(self.sealed, blocks))
        for length, equal in itertools.groupby(lengths):
            n, first = len(list(equal)), self.sealed
            columns = slice(self.now.at, self.now.at + n * length)
            k, v = (x[0, :, columns].unflatten(1, (n, length)).transpose(0, 1) for x in self.now.tail[:2])
            if self.settings.keep == "blocks":
                self.store.put(self.layer, first, k, v)
                mass = self.now.tail.mass[:, columns]
                self.index.put(first, k, mass.unflatten(1, (n, length)).transpose(0, 1))
            if self.recall is not None:
                self.recall.put(self.layer, first, k)
            self.now = replace(self.now, pending=self.now.pending + n * length, at=self.now.at + n * length)

    def choose(
        self,
        query: Float[Tensor, "H D"] | None,
        blocks: int,
        dropped: Collection[int],
        pinned: Collection[int] = (),
    ) -> None:
        """Choose among the first `blocks` blocks, but for `dropped` ones, by a query at the memory's distance.

        Those of `pinned` are chosen in any case. None stands for the mean of the newest queries.
        """
        if query is None and blocks > self.settings.top_k:
            assert self.now.queries is not None
            query = self.now.queries.double().mean(1)
        self.now = replace(self.now, chosen=self.index.choose(query, blocks, dropped, pinned))
        self.store.chosen(self.layer)
        self.prefetch()

    def prefetch(self) -> None:
        """Let the store begin to read the chosen blocks that lie in no slot."""
        placed = {tag[0] for tags in self.tags for tag in tags if tag is not None}
        self.store.prefetch(self.layer, self.chosen_blocks - placed)

    def remember(self, q: Float[Tensor, "H T D"]) -> None:
        """Keep the newest `pool` queries."""
        pool, old = self.settings.pool, self.now.queries
        kept = [] if old is None or q.shape[1] >= pool else [old[:, max(0, old.shape[1] + q.shape[1] - pool) :]]
        self.now = replace(self.now, queries=torch.cat([*kept, q[:, -pool:]], 1))

    def assign(self, base: int) -> None:
        """Give every chosen block a slot; those that have one keep it. Places will count from `base`."""
        now, K = self.now, self.settings.top_k
        assert now.chosen is not None
        slots = np.full((self.index.groups, K), -1) if now.slots is None else now.slots.copy()
        for row, chosen in zip(slots, now.chosen, strict=True):
            wanted = set(chosen.tolist())
            row[: K - len(wanted)] = -1
            free = [slot for slot in range(K - len(wanted), K) if row[slot] not in wanted]
            for block, slot in zip(sorted(wanted.difference(row.tolist())), free, strict=False):
                row[slot] = block
        self.now, self.filled = replace(now, slots=slots, base=base), False

    def fill(self, places: Ints | None, rotation: Rotation | None) -> None:
        """Bring the chosen blocks into their slots, their first tokens at `places` [C, n] (None: all tokens at 0)."""
        if self.filled:
            return
        chosen, slots = self.now.chosen, self.now.slots
        assert chosen is not None
        assert slots is not None
        columns = self.first_sink - self.cuts.behind(slots)
        for c, tags in enumerate(self.tags):
            at = {int(b): None if places is None else int(places[c, i]) for i, b in enumerate(chosen[c])}
            new = [None if b not in at else (b, at[b], int(columns[c, i])) for i, b in enumerate(slots[c].tolist())]
            wanted = [tag for tag, old in zip(new, tags, strict=True) if tag is not None and tag != old]
            tags[:] = [old if old == tag else None for tag, old in zip(new, tags, strict=True)]
            if wanted:
                self._fetch(c, wanted, rotation)
            tags[:] = new
        self.filled = True

    def shares(self, mass: Float[Tensor, "1 H M"]) -> list[list[float]]:
        """What the block in each slot got of the mass of the columns of `front`."""
        assert self.now.slots is not None
        return self.cuts.shares(mass[0, :, : self.first_sink].view(len(self.tags), -1, self.first_sink), self.now.slots)

    def place_sinks(self, place: int, rotation: Rotation | None) -> None:
        """Bring the sinks that are held to `place`, `place` + 1, ..."""
        if self.sink_place == place:
            return
        self.sink_place = None
        k, v = self.raw_sinks
        if rotation is not None:
            k = turned(k, rotation, turn_by(rotation, place + torch.arange(k.shape[2]), k))
        for mine, x in zip(self.front, (k, v), strict=True):
            mine[:, :, self.first_sink :] = x
        self.sink_place = place if self.now.held >= self.settings.sinks else None

    def _fetch(self, c: int, tags: list[tuple[int, int | None, int]], rotation: Rotation | None) -> None:
        heads = slice(c, c + 1) if len(self.tags) > 1 else slice(None)
        k, v = stored(self.store, self.layer, [block for block, *_ in tags], self.shape.device)
        k, v = k[:, heads], v[:, heads]
        if rotation is not None and tags[0][1] is not None:
            at = torch.tensor([place for _, place, _ in tags])[:, None] + torch.arange(k.shape[2])
            k = turned(k, rotation, turn_by(rotation, at, k))
        for n, (block, _, column) in enumerate(tags):
            length = self.cuts.start(block + 1) - self.cuts.start(block)
            for mine, x in zip(self.front, (k, v), strict=True):
                mine[0, heads, column : column + length] = x[n, :, :length]

    def keep_mass(self, mass: Float[Tensor, "1 H m"]) -> None:
        """The mass so far of the newest tokens."""
        self.now = replace(self.now, mass=mass)

    def empty_slots(self) -> None:
        """Forget what lies in the slots and where the sinks stand: after a step that was not committed."""
        self.sink_place, self.filled = None, False
        self.tags = [[None] * self.settings.top_k for _ in self.tags]

    @property
    def nbytes(self) -> int:
        """Bytes of the working memory (the store and the index are counted by themselves)."""
        now = self.now
        pairs = [*self.front, now.tail.k, now.tail.v, now.tail.mass, now.mass, now.queries]
        pairs += [] if self.raw_sinks is self.front else self.raw_sinks
        return sum(x.untyped_storage().nbytes() for x in pairs if x is not None)

    def fork(self, done: Progress, store: Store, cuts: Cuts, recall: RecallIndex | None) -> LayerMemory:
        """An independent memory that has come as far as `done`; `store`, `cuts` and `recall` are the fork's."""
        other = LayerMemory(self.settings, self.layer, self.shape, store, cuts, recall)
        other.index = self.index.fork()
        S, first = self.settings.sinks, self.raw_sink
        for mine, theirs in zip(self.raw_sinks, other.raw_sinks, strict=True):
            theirs[:, :, first : first + S] = mine[:, :, first : first + S]
        tail = Tail(done.tail.k.clone(), done.tail.v.clone(), done.tail.mass.clone())
        other.now = replace(done, tail=tail)
        return other
