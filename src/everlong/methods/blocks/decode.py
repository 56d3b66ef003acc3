"""One token in the middle of a retrieval chunk: nothing is chosen and nothing moves, so its layers share all but keys.

The path of decoding. It computes what `LayerCall` does for such a token, with what does not depend on the layer worked
out once for all of them: which columns are seen, by how much a query is turned, which token leaves the window.

Letters: H query heads, G kv heads, F = H / G, D head dim, M columns of the arena, K chosen blocks, R runs of keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.window import WindowLayout
from everlong.methods.blocks.citing import cite
from everlong.methods.blocks.layer import LayerMemory
from everlong.methods.blocks.step import BlockStep
from everlong.methods.blocks.stream import BlockStream
from everlong.models.layout import LayerPlan
from everlong.ops.attend_token import AttendedKeys, attend_token
from everlong.ops.rotary import Rotation, turn_by
from everlong.ops.token_tables import LayerColumns, TokenTables, Words


def decodes(block_step: BlockStep, row: BlockStream) -> bool:
    """Whether a step reads one token in the middle of a retrieval chunk, and all layers of `row` stand alike."""
    s = block_step.settings
    if block_step.step.tokens != 1 or s.positions == "far" or s.cut != "even" or s.digest != "bounds":
        return False
    cell = block_step.cells(0, row)[0]
    leaves = cell.end - s.window
    if cell.opens or leaves < s.sinks or not row.done.progress:
        return False
    stands = {(p.held, p.pending, p.base, p.chosen is None or p.chosen.shape[1]) for p in row.done.progress.values()}
    ready = all(x.slots.filled and x.shape.key_dim == x.shape.value_dim for x in row.layers.values())
    return len(stands) == 1 and stands.pop()[0] == leaves and ready


class TokenStep:
    """The attention of each layer for the one new token of a step that `decodes`."""

    def __init__(self, block_step: BlockStep, row: BlockStream, lane: WindowLayout) -> None:
        step = block_step.step
        s = block_step.settings
        view = block_step.view(0, row, lane, 0)
        now = next(iter(row.done.progress.values()))
        first = now.held + row.pad
        frame = max((x for x in step.segments if x.start <= first), key=lambda x: x.start)
        limits = [(piece, span.limits(0, 1)) for (piece, _), span in zip(view.pieces, view.joined, strict=True)]
        self.row = row
        self._held = now.held
        self._chosen = 0 if now.chosen is None else now.chosen.shape[1]
        self._cites = view.cell.answering and self._chosen > 0
        self._near = [(p, p.start + lo, end - lo) for p, (lo, _, _, end) in limits if lo < end]
        self._front = (s.top_k - self._chosen) * s.block
        self._first_sink = s.top_k * s.block
        self._sinks = int(view.front(self._chosen * s.block).hi[0, 0]) - self._first_sink
        self._sink_places = view.sink_place(self._chosen * s.block, now.base) + block_step.offsets(row.pad, s.sinks)
        self._sink_place = int(self._sink_places[0]) if s.sinks else None
        self._leaving = first - lane.shift
        to_far = s.window - 1 - (step.places.at(view.cell.first + row.pad) - step.base)
        self._places = (to_far, step.base - now.base, frame.base - step.places.at(first))
        self._turns: dict[tuple[int, torch.device], list[Tensor | None]] = {}
        self._shares: dict[int, Float[Tensor, "K G F"]] = {}

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, s_aux: Tensor | None
    ) -> Float[Tensor, "1 1 H D"]:
        """Attention of a layer over its columns `k`, `v` [1, G, M, D] and what the memory brings."""
        memory = self.row.layers[layer.index]
        if memory.slots.sink_place != self._sink_place:  # asked here: it is a call for each layer and token
            memory.slots.place_sinks(memory.raw_sinks, self._held, self._sink_places, layer.rotation)
        to_far, to_front, back = self._turned_by(layer.rotation, q)
        in_front = _turned(q, to_front)
        ranges = [AttendedKeys(in_front, *memory.slots.pair, at, n, runs) for at, n, runs in self._in_front()]
        blocks = len(ranges)
        for piece, at, n in self._near:
            near = q if piece.turn is None else piece.turned(q, layer.rotation, 0)
            ranges.append(AttendedKeys(near, k, v, at, n))
        out, shares = attend_token(ranges, scale, s_aux, self._cites and blocks > 0)
        if shares is not None:
            self._shares[layer.index] = shares[: self._chosen]
        leaving = k.narrow(2, self._leaving, 1), v.narrow(2, self._leaving, 1)
        done = self.row.done.progress[layer.index]
        column, queries = memory.reserve_token(done)
        memory.now.tail.k[:, :, column] = _turned(leaving[0], back)[:, :, 0]
        memory.now.tail.v[:, :, column] = leaving[1][:, :, 0]
        queries[:, -1] = _turned(q, to_far)[0, :, 0]
        return out

    @property
    def sizes(self) -> tuple[int, int]:
        """How many ranges, and how many moves, `fill` writes for a layer."""
        return len(self._in_front()) + len(self._near), 3

    def fill(self, tables: TokenTables, at: Words, layers: Sequence[LayerPlan], columns: LayerColumns) -> None:
        """Write down what `attend` does for `layers`, rows `at` of the tables: they rotate alike, over `columns`."""
        memories = [self.row.layers[layer.index] for layer in layers]
        rotation = layers[0].rotation
        for memory in memories:
            if memory.slots.sink_place != self._sink_place:
                memory.slots.place_sinks(memory.raw_sinks, self._held, self._sink_places, rotation)
        to_far, to_front, back = self._turned_by(rotation, columns.like)
        slots = LayerColumns([memory.slots.pair for memory in memories])
        front = self._in_front()
        for r, (first, n, runs) in enumerate(front):
            tables.attend_to(at, r, slots, first, n, to_front, runs)
        for r, (piece, first, n) in enumerate(self._near, len(front)):
            angles = piece.angles(rotation, columns.like)
            tables.attend_to(at, r, columns, first, n, None if angles is None else angles.matrix)
        if self._cites and front:
            self._note_shares(tables, at, layers, sum(runs for _, _, runs in front) + len(self._near))
        self._fill_moves(tables, at, memories, columns, to_far, back)

    def _note_shares(self, tables: TokenTables, at: Words, layers: Sequence[LayerPlan], runs: int) -> None:
        shape = self.row.layers[layers[0].index].shape
        device = self.row.layers[layers[0].index].slots.pair[0].device
        shares = torch.zeros(len(layers), runs, shape.kv_heads, shape.heads // shape.kv_heads, device=device)
        tables.calls[at, 5] = shares.data_ptr() + np.arange(len(layers)) * shares.stride(0) * 4
        tables.shares.append(shares)
        for layer, own in zip(layers, shares, strict=True):
            self._shares[layer.index] = own[: self._chosen]

    def _fill_moves(
        self,
        tables: TokenTables,
        at: Words,
        memories: Sequence[LayerMemory],
        columns: LayerColumns,
        to_far: Tensor | None,
        back: Tensor | None,
    ) -> None:
        """The token that leaves the window, turned back, and the query, turned to the memory's distance."""
        done = self.row.done.progress
        rooms = [memory.reserve_token(done[memory.layer]) for memory in memories]
        heads = memories[0].shape.kv_heads
        tails = LayerColumns([memory.now.tail[:2] for memory in memories])
        leaving = columns.at(self._leaving)
        free = tails.at(np.array([column for column, _ in rooms]))
        for n, turn in enumerate((back, None)):
            source = leaving[:, n], columns.strides[:, n]
            tables.move(at, n, source, (free[:, n], tails.strides[:, n]), heads, turn)
        target = np.array([(x[:, -1].data_ptr(), x.stride(0)) for _, x in rooms], dtype=np.int64)
        tables.move(at, 2, None, (target[:, 0], target[:, 1]), memories[0].shape.heads, to_far)

    def _in_front(self) -> list[tuple[int, int, int]]:
        """(first column, columns, runs) of the chosen blocks, each a run where they are cited, and of the sinks."""
        chosen = self._first_sink - self._front
        found = [(self._front, chosen + self._sinks, 1)]
        if self._cites:
            found = [(self._front, chosen, self._chosen), (self._first_sink, self._sinks, 1)]
        return [x for x in found if x[1]]

    def _turned_by(self, rotation: Rotation | None, like: Tensor) -> list[Tensor | None]:
        """The turns to the memory's distance, to the frame of what is in front, and back to none; None: no turn."""
        if rotation is None:
            return [None, None, None]
        key = id(rotation), like.device
        if key not in self._turns:
            self._turns[key] = [
                turn_by(rotation, torch.tensor([place]), like).matrix if place else None for place in self._places
            ]
        return self._turns[key]

    def cite(self, cited: dict[int, float]) -> None:
        """Add what the blocks in the slots got, over all layers, to `cited`."""
        if not self._shares:
            return
        every = torch.stack(list(self._shares.values()))
        for layer, shares in zip(self._shares, every.sum(3).tolist(), strict=True):
            cite(cited, self.row.layers[layer].slots, shares)


def _turned(x: Tensor, matrix: Tensor | None) -> Tensor:
    return x if matrix is None else (x.to(matrix.dtype) @ matrix).to(x.dtype)
