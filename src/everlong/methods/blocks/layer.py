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
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.blocks.boundaries import BlockBoundaries
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.index import Index
from everlong.methods.blocks.layout import spare_queries
from everlong.methods.blocks.progress import LayerProgress, Shape, Tail
from everlong.methods.blocks.recall.index import RecallIndex
from everlong.methods.blocks.slots import Slots
from everlong.storage.base import Store


class TokenRooms(NamedTuple):
    """Where tokens go that leave the window of a layer one by one: of token n, in the column `column` + n of `tail`.

    Its query goes to number `end` + n of `queries`, of which the newest `pool` from `oldest` on count. `now` is how far
    the layer has come before the first.
    """

    now: LayerProgress
    tail: Tail
    column: int
    queries: Float[Tensor, "H n D"]
    oldest: int
    end: int
    pool: int


class LayerMemory:
    """Sinks, pending tokens and slots of chosen blocks, with the index; the store is shared by the layers."""

    def __init__(
        self,
        settings: BlockSettings,
        layer: int,
        shape: Shape,
        store: Store,
        cuts: BlockBoundaries,
        recall: RecallIndex | None = None,
    ) -> None:
        self.settings = settings
        self.layer = layer
        self.shape = shape
        self.store = store
        self.cuts = cuts
        self.recall = recall if recall is not None and layer in recall.layers else None
        self.index = Index(settings, shape.heads, shape.kv_heads, shape.key_dim, shape.digests, shape.ranks)
        self.slots = Slots(settings, layer, shape, store, cuts, self.index.groups)
        self.raw_sinks = self.slots.pair if settings.positions == "far" else shape.pair(settings.sinks)
        self.now = LayerProgress(self._tail(0), pending=settings.sinks)
        self._pool: Tensor | None = None

    def _tail(self, tokens: int) -> Tail:
        """An empty tail with room for `tokens` besides what is ever pending at the start of a step."""
        s = self.settings
        columns = s.block + max(s.exec_chunk, s.choose_every) + tokens
        weighed = 0 if self.index.bounds else self.shape.heads
        return Tail(*self.shape.pair(columns), self.shape.empty(weighed, columns, dtype=torch.float32))

    @property
    def raw_sink(self) -> int:
        """The column of `raw_sinks` in which the sinks begin."""
        return self.slots.first_sink if self.raw_sinks is self.slots.pair else 0

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

    # A step: begin, then for each cell hold, seal, choose, assign, weigh. What it makes is in `now`.

    def begin(self, done: LayerProgress, tokens: int) -> None:
        """Go on from `done`, with room for `tokens` more: what is pending moves to a fresh tail when it must."""
        fits = done.at + max(0, done.held - done.pending) + tokens <= done.tail.mass.shape[1]
        self.now = done if fits else _moved(done, self._tail(tokens))

    def hold(self, k: Float[Tensor, "1 G n D"], v: Float[Tensor, "1 G n E"]) -> None:
        """Take the raw keys and the values of the tokens that leave the window next."""
        S = self.settings.sinks
        now = self.now
        n = k.shape[2]
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
        S = self.settings.sinks
        now = self.now
        n = mass.shape[1]
        early = min(max(0, S - now.weighed), n)
        column = now.at + max(now.weighed, S) - now.pending
        now.tail.mass[:, column : column + n - early] = mass[:, early:]
        self.now = replace(now, weighed=now.weighed + n)

    def seal(self, blocks: int) -> None:
        """Move pending tokens to the store until there are `blocks` blocks."""
        lengths = (self.cuts.start(n + 1) - self.cuts.start(n) for n in range(self.sealed, blocks))
        for length, equal in itertools.groupby(lengths):
            n = len(list(equal))
            first = self.sealed
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
        self.store.prefetch(self.layer, self.chosen_blocks - self.slots.placed)

    def remember(self, q: Float[Tensor, "H T D"]) -> None:
        """Keep the newest `pool` queries."""
        self.now = replace(self.now, queries=self._pooled(q))

    def reserve(self, done: LayerProgress, tokens: int) -> TokenRooms:
        """Room, behind `done`, for so many tokens that leave the window one by one, and for as many queries.

        At most as many as a choice serves, and as `spare_queries` says, so that nothing grows beyond what is planned.
        """
        fits = done.at + max(0, done.held - done.pending) + tokens <= done.tail.mass.shape[1]
        # A fresh tail has room for what is ever pending before the next choice, and so for these tokens.
        self.now = now = done if fits else _moved(done, self._tail(1))
        queries, oldest, end = self._query_room(tokens)
        return TokenRooms(now, now.tail, now.at + now.held - now.pending, queries, oldest, end, self.settings.pool)

    def _pooled(self, q: Float[Tensor, "H T D"]) -> Float[Tensor, "H n D"]:
        """The newest `pool` queries with these."""
        pool = self.settings.pool
        old = self.now.queries
        if old is None or q.shape[1] >= pool:
            return q[:, -pool:].clone()
        if q.shape[1] > 1:
            return torch.cat([old[:, max(0, old.shape[1] + q.shape[1] - pool) :], q], 1)
        room, oldest, end = self._query_room(1)
        found = room[:, max(end + 1 - pool, oldest) : end + 1]
        found[:, -1] = q[:, 0]
        return found

    def _query_room(self, tokens: int) -> tuple[Float[Tensor, "H n D"], int, int]:
        """Where more queries are written behind the newest `pool` - 1: (the room, the oldest, the first that is free).

        Where those are, as long as there is room behind them.
        """
        pool = self.settings.pool
        old = self.now.queries
        if old is None or pool == 1:
            return self.shape.empty(self.shape.heads, tokens, self.shape.key_dim, dtype=self.shape.dtype), 0, 0
        room = self._pool
        end = 0 if room is None else _end(old, room)
        if room is not None and 0 < end <= room.shape[1] - tokens:
            return room, end - old.shape[1], end
        kept = old[:, max(0, old.shape[1] + 1 - pool) :]
        end = kept.shape[1]
        self._pool = room = self.shape.empty(len(old), end + 1 + spare_queries(pool), old.shape[2], dtype=old.dtype)
        room[:, :end] = kept
        return room, 0, end

    def assign(self, base: int) -> None:
        """Give every chosen block a slot; those that have one keep it. Places will count from `base`."""
        assert self.now.chosen is not None
        self.now = replace(self.now, slots=self.slots.assigned(self.now.chosen, self.now.slots), base=base)
        self.slots.filled = False

    def keep_mass(self, mass: Float[Tensor, "1 H m"]) -> None:
        """The mass so far of the newest tokens."""
        self.now = replace(self.now, mass=mass)

    @property
    def nbytes(self) -> int:
        """Bytes of the working memory (the store and the index are counted by themselves)."""
        now = self.now
        pairs = [*self.slots.pair, now.tail.k, now.tail.v, now.tail.mass, now.mass, now.queries]
        pairs += [] if self.raw_sinks is self.slots.pair else self.raw_sinks
        return sum(x.untyped_storage().nbytes() for x in pairs if x is not None)

    def fork(self, done: LayerProgress, store: Store, cuts: BlockBoundaries, recall: RecallIndex | None) -> LayerMemory:
        """An independent memory that has come as far as `done`; `store`, `cuts` and `recall` are the fork's."""
        other = LayerMemory(self.settings, self.layer, self.shape, store, cuts, recall)
        other.index = self.index.fork()
        S = self.settings.sinks
        first = self.raw_sink
        for mine, theirs in zip(self.raw_sinks, other.raw_sinks, strict=True):
            theirs[:, :, first : first + S] = mine[:, :, first : first + S]
        tail = Tail(done.tail.k.clone(), done.tail.v.clone(), done.tail.mass.clone())
        other.now = replace(done, tail=tail)
        return other


def _moved(done: LayerProgress, fresh: Tail) -> LayerProgress:
    """The same with what is pending at the front of a tail of its own."""
    used = max(0, done.held - done.pending)
    live = slice(done.at, done.at + used)
    for new, old in ((fresh.k, done.tail.k), (fresh.v, done.tail.v)):
        new[:, :, :used] = old[:, :, live]
    fresh.mass[:, :used] = done.tail.mass[:, live]
    return replace(done, tail=fresh, at=0)


def _end(part: Tensor, room: Tensor) -> int:
    """The column of `room` [H, n, D] behind those that `part` views; 0 where it views another tensor."""
    if part.untyped_storage().data_ptr() != room.untyped_storage().data_ptr():
        return 0
    return part.storage_offset() // room.stride(1) + part.shape[1]
