"""Single tokens in the middle of a retrieval chunk: nothing is chosen and nothing moves, so little is asked anew.

The path of decoding. It computes what `LayerCall` does for such tokens. What holds for all of them and for all layers
is worked out once, when the first of them comes: which columns are seen, where sinks stand, by how much queries and
keys are turned, where the tokens that leave the window go.

Letters: H query heads, G kv heads, F = H / G, D head dim, M columns of the arena, K chosen blocks, R runs of keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.positions import TokenPlaces
from everlong.cache.step import ForwardPlan
from everlong.cache.window import WindowLayout
from everlong.methods.blocks.cells import begins_run
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.layer import LayerMemory, TokenRooms
from everlong.methods.blocks.layout import spare_queries
from everlong.methods.blocks.progress import LayerProgress
from everlong.methods.blocks.slots import Slots
from everlong.methods.blocks.stream import BlockStream, Done
from everlong.models.layout import LayerPlan
from everlong.models.ranks import Ranks
from everlong.ops.attend_token import AttendedKeys, attend_token
from everlong.ops.rotary import Rotation, turn_matrices
from everlong.ops.token_tables import LayerColumns, TokenTables, Words

AHEAD = 8
"""Tokens for which turns are made and room is taken at once."""


def cite(cited: dict[int, float], slots: Slots, shares: list[list[float]]) -> None:
    """Add what the blocks in the last slots got, of the heads of each kv head [K, G], to `cited`."""
    for c, tags in enumerate(slots.tags):
        for tag, heads in zip(tags[len(tags) - len(shares) :], shares, strict=True):
            if tag is not None:
                got = heads[c] if len(slots.tags) > 1 else sum(heads)
                cited[tag[0]] = cited.get(tag[0], 0.0) + got


def of_all(ranks: Ranks | None, mass: dict[int, float]) -> dict[int, float]:
    """The mass that blocks got from the heads of all ranks, without those that got none."""
    if ranks is not None and mass:
        blocks = sorted(mass)
        total = ranks.sum(torch.tensor([mass[n] for n in blocks], dtype=torch.float64))
        mass = dict(zip(blocks, total.tolist(), strict=True))
    return {block: got for block, got in mass.items() if got}


def added(old: dict[int, float], new: dict[int, float]) -> dict[int, float]:
    """The sum of both, key by key."""
    return {key: old.get(key, 0.0) + new.get(key, 0.0) for key in {**old, **new}}


def token_run(row: BlockStream, done: Done, step: ForwardPlan, seen: int, answering: bool) -> TokenRun | None:
    """What computes the single tokens behind the first `seen`, which `done` goes on from.

    `step` reads the first of them, or was the one before. None where that token begins a chunk, or layers differ.
    """
    s = row.settings
    token = seen - row.pad
    if not done.progress or s.positions == "far" or s.cut != "even" or s.digest != "bounds":
        return None
    size, origin = (s.choose_every, done.cursor.start) if answering else (s.exec_chunk, 0)
    into = (token - origin) % size
    if into == 0 or begins_run(done.cursor, token, answering) or token + 1 - s.window < s.sinks:
        return None
    stands = {(p.held, p.pending, p.base, p.chosen is None or p.chosen.shape[1]) for p in done.progress.values()}
    ready = all(x.slots.filled and x.shape.key_dim == x.shape.value_dim for x in row.layers.values())
    if not ready or len(stands) > 1 or stands.pop()[0] != token + 1 - s.window:
        return None
    lane = step.arenas[min(row.layers)].lane
    return TokenRun(row, done, lane, step, (seen, min(size - into, AHEAD, spare_queries(s.pool))), answering)


class _Turns(NamedTuple):
    """The turns of layers that rotate alike: by token to the memory's distance and back to none, and to the front."""

    to_far: Tensor | None
    to_front: Tensor | None
    back: Tensor | None
    older: dict[int, Tensor]
    """To frames before the present one, by how far their bases are away."""

    def of(self, token: int) -> tuple[Tensor | None, Tensor | None]:
        """A token's query to the memory's distance, and back to none the key of what leaves its window."""
        if self.to_far is None or self.back is None:
            return None, None
        return self.to_far[token], self.back[token]


class TokenRun:
    """The attention of each layer for `count` tokens that follow each other, one in each step."""

    def __init__(
        self,
        row: BlockStream,
        done: Done,
        lane: WindowLayout,
        step: ForwardPlan,
        tokens: tuple[int, int],
        answering: bool,
    ) -> None:
        s = row.settings
        now = next(iter(done.progress.values()))
        self.row = row
        self._done = done
        self._lane = lane
        self._answering = answering
        self._first, self._count = tokens
        self._at = -1
        """Number of the present token among those of the run."""
        self._base = step.base
        self._frames = step.segments
        self._pending = row.cuts.start(done.cursor.sealed) + row.pad
        self._chosen = 0 if now.chosen is None else now.chosen.shape[1]
        self._front = _front(s, self._chosen, answering)
        self._cites = answering and self._chosen > 0
        self._leaving = now.held + row.pad
        leaving = np.arange(self._leaving, self._leaving + self._count)
        starts = [frame.start for frame in step.segments]
        bases = np.array([frame.base for frame in step.segments])
        self._back = bases[np.searchsorted(starts, leaving, "right") - 1] - step.places.of(leaving)
        self._to_far = s.window - 1 + step.base - (step.places.at(self._first) + np.arange(self._count))
        self._to_front = step.base - now.base
        self._turns: dict[tuple[int, torch.device], _Turns] = {}
        self._shares: dict[int, Float[Tensor, "K G F"]] = {}
        self._columns: dict[int, tuple[LayerColumns, LayerColumns, Words, Words]] = {}
        self._rooms = {i: memory.reserve(done.progress[i], self._count) for i, memory in row.layers.items()}
        self._place_sinks(step.places, now)

    def _place_sinks(self, places: TokenPlaces, now: LayerProgress) -> None:
        """Bring the sinks to where they stand in front of the chosen blocks, in every layer."""
        row = self.row
        s = row.settings
        own = places.between(row.pad, row.pad + s.sinks)
        first = places.at(row.pad)
        if s.positions != "true":
            first = places.at(self._pending) - self._chosen * s.block - s.sinks
        stand = own - places.at(row.pad) + first - now.base
        for i, memory in row.layers.items():
            rotation = row.plan.by_index[i].rotation
            memory.slots.place_sinks(memory.raw_sinks, now.held, stand, rotation)
            self._turned_by(rotation, memory.slots.pair[0])

    def goes_on(self, step: ForwardPlan, answering: bool, pad: int) -> bool:
        """Whether `step` reads the next token of the run, which is then computed for it."""
        at = self._at + 1
        # Whatever else is decided about the blocks (pins, a question, other text) leaves another `done` behind.
        same = self.row.done is self._done and self.row.pad == pad and step.base == self._base
        if not same or answering != self._answering or step.tokens != 1 or step.rows != 1 or step.planes is not None:
            return False
        if step.seen != self._first + at or at >= self._count:
            return False
        self._at = at
        self._frames = step.segments
        self._shares = {}
        return True

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, s_aux: Tensor | None
    ) -> Float[Tensor, "1 1 H D"]:
        """Attention of a layer over its columns `k`, `v` [1, G, M, D] and what the memory brings."""
        memory = self.row.layers[layer.index]
        turns = self._turned_by(layer.rotation, q)
        at = self._at
        in_front = _turned(q, turns.to_front)
        ranges = [AttendedKeys(in_front, *memory.slots.pair, first, n, runs) for first, n, runs in self._front]
        for by, first, n in self._near():
            ranges.append(AttendedKeys(_turned(q, turns.older.get(by)), k, v, first, n))
        out, shares = attend_token(ranges, scale, s_aux, self._cites)
        if shares is not None:
            self._shares[layer.index] = shares[: self._chosen]
        room = self._rooms[layer.index]
        far, back = turns.of(at)
        leaving = self._leaving + at - self._lane.shift
        room.tail.k[:, :, room.column + at] = _turned(k.narrow(2, leaving, 1), back)[:, :, 0]
        room.tail.v[:, :, room.column + at] = v[:, :, leaving]
        room.queries[:, room.end + at] = _turned(q, far)[0, :, 0]
        self._take(memory, room)
        return out

    def _take(self, memory: LayerMemory, room: TokenRooms) -> None:
        """Let the layer's memory be behind the present token, whose key and query are written, or about to be."""
        done = room.now
        end = room.end + self._at + 1
        queries = room.queries[:, max(end - room.pool, room.oldest) : end]
        held = done.held + self._at + 1
        chosen = done.chosen, done.slots, done.base
        memory.now = LayerProgress(done.tail, done.pending, done.at, held, done.weighed, *chosen, done.mass, queries)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many ranges, and how many moves, `fill` writes for a layer."""
        return len(self._front) + len(self._near()), 3

    def fill(self, tables: TokenTables, at: Words, layers: Sequence[LayerPlan], columns: LayerColumns) -> None:
        """Write down what `attend` does for `layers`, rows `at` of the tables: they rotate alike, over `columns`."""
        turns = self._turned_by(layers[0].rotation, columns.like)
        memories = [self.row.layers[layer.index] for layer in layers]
        rooms = [self._rooms[layer.index] for layer in layers]
        key = layers[0].index
        if key not in self._columns:
            slots = LayerColumns([memory.slots.pair for memory in memories])
            tails = LayerColumns([(room.tail.k, room.tail.v) for room in rooms])
            free = np.array([room.column for room in rooms])
            queries = np.array([(x.queries[:, x.end].data_ptr(), x.queries.stride(0)) for x in rooms], dtype=np.int64)
            self._columns[key] = slots, tails, free, queries
        slots, tails, free, queries = self._columns[key]
        near = self._near()
        for r, (first, n, runs) in enumerate(self._front):
            tables.attend_to(at, r, slots, first, n, turns.to_front, runs)
        for r, (by, first, n) in enumerate(near, len(self._front)):
            tables.attend_to(at, r, columns, first, n, turns.older.get(by))
        if self._cites:
            self._note_shares(tables, at, layers, sum(runs for _, _, runs in self._front) + len(near))
        # What leaves the window is turned back and moved behind what is pending, the query to the newest of the pool.
        token = self._at
        shape = memories[0].shape
        far, back = turns.of(token)
        source = columns.at(self._leaving + token - self._lane.shift)
        target = tails.at(free + token)
        for n, turn in enumerate((back, None)):
            ends = (source[:, n], columns.strides[:, n]), (target[:, n], tails.strides[:, n])
            tables.move(at, n, *ends, shape.kv_heads, turn)
        one = rooms[0].queries.stride(1) * rooms[0].queries.element_size()
        tables.move(at, 2, None, (queries[:, 0] + token * one, queries[:, 1]), shape.heads, far)
        for memory, room in zip(memories, rooms, strict=True):
            self._take(memory, room)

    def _note_shares(self, tables: TokenTables, at: Words, layers: Sequence[LayerPlan], runs: int) -> None:
        memory = self.row.layers[layers[0].index]
        heads = memory.shape.kv_heads, memory.shape.heads // memory.shape.kv_heads
        shares = torch.zeros(len(layers), runs, *heads, device=memory.slots.pair[0].device)
        tables.calls[at, 5] = shares.data_ptr() + np.arange(len(layers)) * shares.stride(0) * 4
        tables.shares.append(shares)
        for layer, own in zip(layers, shares, strict=True):
            self._shares[layer.index] = own[: self._chosen]

    def _near(self) -> list[tuple[int, int, int]]:
        """(how far its frame's base is away, first column, columns) of what is pending and in the window, by frame."""
        shift = self._lane.shift
        ends = [frame.start for frame in self._frames[1:]] + [self._first + self._at + 1]
        found = []
        for frame, after in zip(self._frames, ends, strict=True):
            first = max(frame.start, self._pending)
            if first < after:
                found.append((self._base - frame.base, first - shift, after - first))
        return found

    def _turned_by(self, rotation: Rotation | None, like: Tensor) -> _Turns:
        """The turns of all tokens of the run."""
        if rotation is None:
            return _NONE
        key = id(rotation), like.device
        if key not in self._turns:
            older = {by for frame in self._frames if (by := self._base - frame.base)}
            once = sorted(older | {self._to_front})
            turns = turn_matrices(rotation, np.concatenate((self._to_far, self._back, once)), like)
            n = self._count
            named = dict(zip(once, turns[2 * n :], strict=True))
            front = named[self._to_front] if self._to_front else None
            self._turns[key] = _Turns(turns[:n], front, turns[n : 2 * n], {by: named[by] for by in older})
        return self._turns[key]

    def commit(self, cited: dict[int, float]) -> Done:
        """How far all layers are behind the token, which adds to `cited` what the blocks in the slots got."""
        if self._shares:
            every = torch.stack(list(self._shares.values()))
            for layer, shares in zip(self._shares, every.sum(3).tolist(), strict=True):
                cite(cited, self.row.layers[layer].slots, shares)
        progress = {i: memory.now for i, memory in self.row.layers.items()}
        self._done = Done(progress, self._done.cursor, added(self._done.cited, of_all(self.row.plan.ranks, cited)))
        return self._done


_NONE = _Turns(None, None, None, {})


def _front(s: BlockSettings, chosen: int, answering: bool) -> list[tuple[int, int, int]]:
    """(first column, columns, runs) of the chosen blocks, each a run where they are cited, and of the sinks."""
    sinks = s.top_k * s.block
    first = (s.top_k - chosen) * s.block
    found = [(first, sinks - first + s.sinks, 1)]
    if answering and chosen:
        found = [(first, sinks - first, chosen), (sinks, s.sinks, 1)]
    return [x for x in found if x[1]]


def _turned(x: Tensor, matrix: Tensor | None) -> Tensor:
    return x if matrix is None else (x.to(matrix.dtype) @ matrix).to(x.dtype)
