"""One step of a block memory: cells, spans and turns that its layers share, and the attention of each.

Letters: T new tokens, H query heads, G kv heads, D, E head dims, M columns of the arena, S sinks, W window, L tokens
per block at most, K chosen blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.cache.window import WindowLayout
from everlong.methods.blocks.cells import Cursor, RetrievalChunk, cells, moved
from everlong.methods.blocks.citing import attend_cited
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.layer import LayerMemory
from everlong.methods.blocks.recall.scout import Scout
from everlong.methods.blocks.stream import BlockStream
from everlong.methods.blocks.view import View
from everlong.models.layout import LayerPlan
from everlong.ops.attend import AttentionPart, attend
from everlong.ops.attend_token import takes
from everlong.ops.native import extension
from everlong.ops.rotary import RotaryAngles, Rotation, turn_by, turned
from everlong.ops.spans import Ints, KeyIntervals


class BlockStep:
    """What the layers of one step share: cells, turns and spans."""

    def __init__(self, settings: BlockSettings, answering: bool, step: ForwardPlan, pads: Ints | None) -> None:
        self.settings = settings
        self.answering = answering
        self.step = step
        self.pads = pads
        self.cited: list[dict[int, float]] = [{} for _ in range(step.rows)]
        self.used: list[Counter[int]] = [Counter() for _ in range(step.rows)]
        self._turns: dict[tuple[int, bytes], RotaryAngles] = {}
        self._cells: dict[int, list[RetrievalChunk]] = {}
        self._views: dict[tuple[int, int], View] = {}

    def pad(self, n: int) -> int:
        """Tokens of padding before row `n`."""
        return 0 if self.pads is None else int(self.pads[n])

    def bounds(self, row: BlockStream) -> tuple[int, int]:
        """Own indices of the row's new tokens: first, and the one after the last."""
        return max(0, self.step.seen - row.pad), self.step.seen + self.step.tokens - row.pad

    def cells(self, n: int, row: BlockStream) -> list[RetrievalChunk]:
        """The cells of row `n`."""
        if n not in self._cells:
            bounds = self.bounds(row)
            self._cells[n] = list(cells(self.settings, row.cuts, row.done.cursor, *bounds, self.answering))
        return self._cells[n]

    def cursor(self, row: BlockStream) -> Cursor:
        """Where the cells of a row stand after the step."""
        return moved(self.settings, row.cuts, row.done.cursor, *self.bounds(row), self.answering)

    def turn(self, rotation: Rotation, by: Ints, like: Tensor) -> RotaryAngles:
        """The turn of tokens by so much each [T]."""
        key = id(rotation), by.tobytes()
        if key not in self._turns:
            self._turns[key] = turn_by(rotation, torch.from_numpy(by), like)
        return self._turns[key]

    def offsets(self, first: int, tokens: int) -> Ints:
        """How far each of the tokens from `first` on stands behind it."""
        places = self.step.places
        return places.between(first, first + tokens) - places.at(first)

    def view(self, n: int, row: BlockStream, lane: WindowLayout, at: int) -> View:
        """The spans of cell number `at` of row `n`."""
        if (n, at) not in self._views:
            self._views[n, at] = View(self.settings, self.step, n, row, lane, self.cells(n, row)[at])
        return self._views[n, at]


class LayerCall:
    """Attention of one layer in one step."""

    def __init__(
        self, block_step: BlockStep, plan: LayerPlan, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> None:
        self.shared = block_step
        self.step = block_step.step
        self.plan = plan
        self.settings = block_step.settings
        self.rotation = plan.rotation
        self.lane = self.step.arenas[plan.index].lane
        self.how = (scale, softcap, s_aux, self.step.scratch)

    def scouted(self, scout: Scout, row: BlockStream, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "1 T H E"]:
        """Outputs over sinks and window alone, after `scout` took the queries; changes nothing in the row."""
        first, end = self.shared.bounds(row)
        q_far = self._far(q, first + row.pad)
        scout.take(self.plan.index, q_far, *self.how[:2])
        memory = row.layers[self.plan.index]
        window = self.settings.window
        done = row.done.progress.get(self.plan.index) or memory.now
        parts = [
            AttentionPart(p.turned(q, self.rotation, 0), k, v, p.span, p.start) for p in self.step.pieces(self.lane)
        ]
        held = min(self.settings.sinks, done.held)
        seen = np.clip(np.arange(first, end, dtype=np.int64)[None] - window + 1, 0, held)
        parts.append(AttentionPart(q_far, *memory.raw_sinks, KeyIntervals(np.zeros_like(seen), seen), memory.raw_sink))
        return attend([p for p in parts if p.span.hi[0, -1] > p.span.lo[0, -1]], *self.how)

    def row(self, n: int, row: BlockStream, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "1 T H E"]:
        """One row's outputs; padding gets 0."""
        memory = row.layer_memory(self.plan.index, q, k, v)
        cuts = self.shared.cells(n, row)
        memory.begin(row.done.progress.get(self.plan.index) or memory.now, self.step.tokens)
        mass = None if memory.index.bounds else self._mass(memory, k)
        out = [self._cell(n, row, at, memory, q, k, v, mass) for at in range(len(cuts))]
        if mass is not None:
            newest = min(self.settings.window - 1, self.shared.bounds(row)[1])
            memory.keep_mass(mass[:, :, mass.shape[2] - newest :])
        hidden = q.shape[2] - sum(x.shape[1] for x in out)
        out = [q.new_zeros(1, hidden, q.shape[1], v.shape[3]), *out] if hidden else out
        return out[0] if len(out) == 1 else torch.cat(out, 1)

    def _mass(self, memory: LayerMemory, k: Tensor) -> Tensor:
        """The mass of every column before this step, [1, H, M]."""
        mass = torch.zeros(1, memory.shape.heads, k.shape[2], dtype=torch.float32, device=k.device)
        if (old := memory.now.mass) is not None and old.shape[2]:
            end = self.step.seen - self.lane.shift
            mass[:, :, end - old.shape[2] : end] = old
        return mass

    def _cell(
        self,
        n: int,
        row: BlockStream,
        at: int,
        memory: LayerMemory,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mass: Tensor | None,
    ) -> Tensor:
        s = self.settings
        view = self.shared.view(n, row, self.lane, at)
        cell = view.cell
        q = q[:, :, view.queries]
        q_far = self._far(q, cell.first + row.pad)
        if cell.opens:
            self._open(memory, view, q_far, row)
            self.shared.used[n].update(memory.chosen_blocks)
        if not memory.slots.filled:
            memory.slots.fill(memory.now, self._places(memory, view), row.pad, self._turn_to)
        self._hold(memory, row, cell.end - s.window, k, v)
        near = [(piece.turned(q, self.rotation, 0), piece.start) for piece, _ in view.pieces]
        joins = mass is None and bool(view.joined)
        spans = view.joined if joins else [span for _, span in view.pieces]
        window = [AttentionPart(x, k, v, span, start, mass) for (x, start), span in zip(near, spans, strict=True)]
        parts: list[AttentionPart] = []
        chosen_tokens = memory.chosen_tokens
        front = view.front(chosen_tokens)
        front_mass = None
        cites = cell.answering and chosen_tokens > 0
        one_by_one = q.shape[2] == 1 or extension() is not None
        by_runs = cites and joins and s.cut == "even" and one_by_one and takes(q[:, :, :1], k, v, self.how[1])
        if cites and not by_runs:
            front_mass = torch.zeros(1, memory.shape.heads, memory.slots.pair[0].shape[2], device=k.device)
        if s.positions == "far":
            parts.append(AttentionPart(q_far, memory.now.tail.k, memory.now.tail.v, view.tail, memory.now.at))
            parts.append(AttentionPart(q_far, *memory.slots.pair, front, 0, front_mass))
        else:
            if not joins:
                parts += [
                    AttentionPart(x, k, v, span, start) for (x, start), span in zip(near, view.behind, strict=True)
                ]
            place = view.sink_place(chosen_tokens, memory.now.base)
            sinks = self.shared.offsets(row.pad, s.sinks)
            memory.slots.place_sinks(memory.raw_sinks, memory.now.held, place + sinks, self.rotation)
            parts.append(AttentionPart(self._moved(q, memory.now.base), *memory.slots.pair, front, 0, front_mass))
        if by_runs:
            scale, _, s_aux, _ = self.how
            out = attend_cited(self.shared.cited[n], memory, window, parts[-1], scale, s_aux)
        else:
            out = attend([*window, *(p for p in parts if p.span.hi[0, -1] > p.span.lo[0, -1])], *self.how)
        if front_mass is not None:
            self._cite(n, memory, front_mass)
        self._hold(memory, row, cell.end - s.window + 1, k, v)
        if mass is not None:
            self._weigh(memory, row, cell.end - s.window + 1, mass)
        memory.remember(q_far[0])
        return out

    def _far(self, q: Tensor, first: int) -> Tensor:
        """Queries turned to position W - 1, the memory's keys being at 0."""
        if self.rotation is None:
            return q
        now = self.step.places.between(first, first + q.shape[2]) - self.step.base
        return turned(q, self.rotation, self.shared.turn(self.rotation, self.settings.window - 1 - now, q))

    def _moved(self, q: Tensor, base: int) -> Tensor:
        """Queries turned into the frame that begins at `base`."""
        by = self.step.base - base
        if self.rotation is None or not by:
            return q
        return turned(q, self.rotation, self.shared.turn(self.rotation, np.array([by]), q))

    def _open(self, memory: LayerMemory, view: View, q_far: Tensor, row: BlockStream) -> None:
        s = self.settings
        cell = view.cell
        memory.seal(cell.sealed)
        query = None
        if s.choice == "paper":
            query = q_far[0].double().mean(1)
        elif cell.answering:
            query = q_far[0, :, 0]
        blocks = cell.sealed if s.keep == "blocks" else 0
        memory.choose(query, blocks, row.dropped | row.bare, row.pinned | row.recalled)
        memory.assign(self.step.base)

    def _turn_to(self, keys: Float[Tensor, "1 G N D"], moves: Sequence[tuple[int, int]]) -> Float[Tensor, "1 G N D"]:
        """Raw keys of blocks of equal length, of each its first token in the stream, and where it is to stand."""
        if self.rotation is None:
            return keys
        length = keys.shape[2] // len(moves)
        places = [place + self.shared.offsets(first, length) for first, place in moves]
        turn = self.shared.turn(self.rotation, np.concatenate(places), keys)
        return turned(keys, self.rotation, turn)

    def _places(self, memory: LayerMemory, view: View) -> Ints | None:
        """Positions in their frame of the chosen blocks' first tokens; None where all memory is at one place."""
        s = self.settings
        chosen = memory.now.chosen
        assert chosen is not None
        if s.positions == "far":
            return None
        places = self.step.places
        if s.positions == "true":
            return places.of(memory.cuts.starts(chosen) + view.pad) - memory.now.base
        return places.at(view.pending + view.pad) - memory.cuts.behind(chosen) - memory.now.base

    def _hold(self, memory: LayerMemory, row: BlockStream, upto: int, k: Tensor, v: Tensor) -> None:
        """Hand over the tokens before `upto` that the memory does not hold yet, their keys turned back."""
        while memory.now.held < upto:
            first = memory.now.held + row.pad
            after = [x.start for x in self.step.segments if x.start > first]
            end = min([upto + row.pad, *after])
            base = max((x for x in self.step.segments if x.start <= first), key=lambda x: x.start).base
            keys = k[:, :, first - self.lane.shift : end - self.lane.shift]
            if self.rotation is not None:
                back = base - self.step.places.between(first, end)
                keys = turned(keys, self.rotation, self.shared.turn(self.rotation, back, k))
            memory.hold(keys, v[:, :, first - self.lane.shift : end - self.lane.shift])

    def _weigh(self, memory: LayerMemory, row: BlockStream, upto: int, mass: Tensor) -> None:
        first = memory.now.weighed
        if first < upto:
            shift = row.pad - self.lane.shift
            memory.weigh(mass[0, :, first + shift : upto + shift])

    def _cite(self, n: int, memory: LayerMemory, mass: Tensor) -> None:
        cited = self.shared.cited[n]
        assert memory.now.slots is not None
        for tags, shares in zip(memory.slots.tags, memory.slots.shares(mass, memory.now.slots), strict=True):
            for tag, share in zip(tags, shares, strict=True):
                if tag is not None:
                    cited[tag[0]] = cited.get(tag[0], 0.0) + share
