"""The block memory of a cache: rows, layers, and how attention runs over window, sinks, pending tokens and blocks.

InfLLM (arXiv 2402.04617). Letters: B rows, H query heads, G kv heads, T new tokens, M columns of the arena, D, E head
dims, S sinks, W window, L tokens per block, K chosen blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.memory.blocks.cells import Cell, Cursor, cells, moved
from everlong.memory.blocks.layer import LayerMemory, Progress, Shape
from everlong.memory.blocks.settings import BlockSettings
from everlong.memory.codec import Codec
from everlong.memory.lane import ENDLESS, Lane
from everlong.memory.plan import LayerPlan, Pattern, RotaryPlan
from everlong.memory.store import HostStore, Store
from everlong.ops.attend import Part, attend
from everlong.ops.rotary import Rotation, Turn, turn_by, turned
from everlong.ops.spans import Ints, Span

if TYPE_CHECKING:
    from everlong.memory.step import Piece, Step


@dataclass(eq=False)
class Row:
    """One stream: its store, its layers, and where its cells stand."""

    store: Store
    layers: dict[int, LayerMemory]
    pad: int = 0
    dropped: frozenset[int] = frozenset()
    """Blocks that can not come back: forgotten, damaged, or given up for room."""


@dataclass(frozen=True, eq=False)
class Done:
    """All that a commit makes valid at once."""

    progress: list[dict[int, Progress]]
    cursors: list[Cursor]
    cited: list[dict[int, float]]


class BlockMemory:
    """What leaves the window of the full-attention layers; natively sliding layers keep to their own window."""

    def __init__(self, settings: BlockSettings, plan: RotaryPlan) -> None:
        self.settings, self.plan = settings, plan
        self.layers = {p.index for p in plan.layers if p.pattern == Pattern()}
        self._check(plan)
        self.rows: list[Row] = []
        self.answering = False
        self.make_store: Callable[[], Store] = HostStore
        self._done = Done([], [], [])
        self._step: _BlockStep | None = None

    def _check(self, plan: RotaryPlan) -> None:
        full = [p for p in plan.layers if p.index in self.layers]
        reason = None
        if plan.alibi:
            reason = "its scores have ALiBi biases, and a memory at one distance was never tried with them"
        elif not full:
            reason = "every layer has a native window, so that nothing could be asked for again"
        elif any(p.latent for p in full):
            reason = "it caches latent vectors (MLA), which are no keys that blocks could be compared by"
        elif any(p.source != p.index for p in full):
            reason = "layers share their keys, and each would need a choice of its own over another layer's blocks"
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

    def begin(self, step: Step, pads: Ints | None) -> None:
        """Prepare a step."""
        self._step = _BlockStep(self, step, pads)

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """Attention of a layer over its columns `k`, `v` [B, G, M, D] and what the memory brings."""
        assert self._step is not None
        self._make_rows(len(q))
        call = _Call(self._step, layer, scale, softcap, s_aux)
        out = [call.row(n, row, q[n : n + 1], k[n : n + 1], v[n : n + 1]) for n, row in enumerate(self.rows)]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _make_rows(self, rows: int) -> None:
        while len(self.rows) < rows:
            n = len(self.rows)
            pads = self._step.pads if self._step is not None else None
            self.rows.append(Row(self.make_store(), {}, pad=0 if pads is None else int(pads[n])))

    def layer_memory(self, row: Row, layer: int, q: Tensor, k: Tensor, v: Tensor) -> LayerMemory:
        """The memory of a layer, made at the first step."""
        if not row.layers:
            self.prepare(row.store, k.dtype)
        if layer not in row.layers:
            shape = Shape(q.shape[1], k.shape[1], k.shape[3], v.shape[3], k.dtype, k.device)
            self.add_layer(row, layer, shape)
        return row.layers[layer]

    def prepare(self, store: Store, dtype: torch.dtype) -> None:
        """Tell a fresh store what it will hold of each layer."""
        for index in sorted(self.layers):
            key, value = self.plan.layers[index].key, self.plan.layers[index].value
            assert key is not None
            assert value is not None
            store.add(index, Codec(self.settings.codec, key[0], self.settings.block, key[1], value[1], dtype))

    def add_layer(self, row: Row, layer: int, shape: Shape) -> None:
        """Make an empty memory for a layer of a row."""
        row.layers[layer] = LayerMemory(self.settings, layer, shape, row.store)

    def done(self, row: int, layer: int) -> Progress | None:
        """What was committed of a layer; None before its first commit."""
        return self._done.progress[row].get(layer) if row < len(self._done.progress) else None

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
        cited = [_added(old, new) for old, new in zip(self._cited(), step.cited, strict=True)]
        self._done, self._step = Done(progress, cursors, cited), None

    def _keep(self, row: Row) -> None:
        """Hand the row's sealed blocks to its store for good."""
        parts = [row.layers[i] for i in sorted(row.layers)]
        blocks = min((part.sealed for part in parts), default=0)
        row.store.commit(blocks, lambda n: torch.cat([part.index.digests.row(n) for part in parts]))

    def drop(self, blocks: Iterable[int], row: int = 0) -> None:
        """Let these blocks never come back; the report counts their tokens as dropped."""
        self.rows[row].dropped |= frozenset(blocks)
        cursors = [replace(c, changed=n == row or c.changed) for n, c in enumerate(self._done.cursors)]
        self._done = replace(self._done, cursors=cursors)

    @property
    def dropped_tokens(self) -> int:
        """Tokens of dropped blocks (of the row with most of them)."""
        return max((len(row.dropped) for row in self.rows), default=0) * self.settings.block

    def _cited(self) -> list[dict[int, float]]:
        return self._done.cited or [{} for _ in self.rows]

    def abandon(self) -> None:
        """Forget a step that failed: counters go back, and slots that may hold blocks of it are emptied."""
        self._step = None
        if not self._done.progress:
            self.rows = []
        for row in self.rows:
            for memory in row.layers.values():
                memory.empty_slots()

    # What is kept.

    @property
    def retrieved_tokens(self) -> int:
        """Tokens of blocks that the newest token attended to."""
        chosen = [p.chosen.shape[1] for row in self._done.progress for p in row.values() if p.chosen is not None]
        return max(chosen, default=0) * self.settings.block

    def citations(self, row: int = 0) -> dict[int, float]:
        """Attention mass per block over layers, heads and answering tokens since the last `forget_citations`."""
        return dict(self._done.cited[row]) if self._done.cited else {}

    def forget_citations(self) -> None:
        """Begin to count anew."""
        self._done = replace(self._done, cited=[{} for _ in self.rows] if self._done.cited else [])

    def block_range(self, block: int) -> tuple[int, int]:
        """First token of a block, and the one after its last."""
        first = self.settings.sinks + block * self.settings.block
        return first, first + self.settings.block

    def blocks_within(self, first: int, end: int) -> range:
        """The blocks that hold no token but `first` .. `end - 1`."""
        S, L = self.settings.sinks, self.settings.block
        begin = max(0, -(-(first - S) // L))
        return range(begin, max(begin, (end - S) // L))

    def planned_bytes(self, chunk: int) -> int:
        """Bytes of sinks, slots, pending tokens, masses and queries of one row that reads chunks of `chunk`."""
        s, total, size = self.settings, 0, self.plan.dtype.itemsize
        tail = s.block + max(s.exec_chunk, s.choose_every) + chunk
        columns = s.top_k * s.block + s.sinks * (1 if s.positions == "far" else 2) + tail
        for plan in (p for p in self.plan.layers if p.index in self.layers):
            masses = tail + (self.lane(plan.pattern, chunk).capacity or 0)
            queries = s.pool * (plan.key or (0, 0))[1]
            total += columns * plan.numbers_per_token * size + self.plan.heads * (masses * 4 + queries * size)
        return total

    def stored_bytes_per_token(self) -> float:
        """Bytes of a store that one token takes over all layers."""
        store = HostStore()
        self.prepare(store, self.plan.dtype)
        return store.row_bytes / self.settings.block

    def bytes(self) -> dict[str, int]:
        """Bytes allocated by tier."""
        device = sum(m.nbytes for row in self.rows for m in row.layers.values())
        index = sum(m.index.digests.nbytes for row in self.rows for m in row.layers.values())
        return {
            "device": device,
            "host": index + sum(row.store.nbytes for row in self.rows),
            "disk": sum(row.store.disk_bytes for row in self.rows),
        }

    def resume(self, progress: list[dict[int, Progress]], cursors: list[Cursor], cited: list[dict[int, float]]) -> None:
        """Take this as what was committed."""
        self._done = Done(progress, cursors, cited)

    def fresh(self) -> BlockMemory:
        """A memory of the same model and settings that holds nothing."""
        other = BlockMemory(self.settings, self.plan)
        other.make_store = self.make_store
        return other

    def fork(self, rows: list[int] | None = None) -> BlockMemory:
        """An independent memory of the same rows, or of `rows` in this order; sealed blocks are shared."""
        other = BlockMemory(self.settings, self.plan)
        other.answering = self.answering
        for n in range(len(self.rows)) if rows is None else rows:
            old, store = self.rows[n], self.rows[n].store.fork()
            layers = {i: m.fork(self._done.progress[n][i], store) for i, m in old.layers.items()}
            other.rows.append(Row(store, layers, old.pad, old.dropped))
            other._done.progress.append({i: m.now for i, m in layers.items()})
            other._done.cursors.append(self.cursor(n))
            other._done.cited.append(dict(self._done.cited[n]))
        return other


class _BlockStep:
    """What the layers of one step share: cells, turns and spans."""

    def __init__(self, memory: BlockMemory, step: Step, pads: Ints | None) -> None:
        self.memory, self.settings, self.step = memory, memory.settings, step
        self.pads, self.answering = pads, memory.answering
        self.cited: list[dict[int, float]] = [{} for _ in range(step.rows)]
        self._turns: dict[tuple[int, ...], Turn] = {}
        self._cells: dict[int, list[Cell]] = {}
        self._views: dict[tuple[int, int], _View] = {}

    def bounds(self, row: Row) -> tuple[int, int]:
        """Own indices of the row's new tokens: first, and the one after the last."""
        return max(0, self.step.seen - row.pad), self.step.seen + self.step.tokens - row.pad

    def cells(self, n: int, row: Row) -> list[Cell]:
        """The cells of row `n`."""
        if n not in self._cells:
            self._cells[n] = list(cells(self.settings, self.memory.cursor(n), *self.bounds(row), self.answering))
        return self._cells[n]

    def cursor(self, n: int, row: Row) -> Cursor:
        """Where the cells of row `n` stand after the step."""
        return moved(self.settings, self.memory.cursor(n), *self.bounds(row), self.answering)

    def turn(self, rotation: Rotation, first: int, end: int, sign: int, like: Tensor) -> Turn:
        """The turn of tokens by sign * (first, first + 1, .., end - 1)."""
        key = id(rotation), first, end, sign
        if key not in self._turns:
            self._turns[key] = turn_by(rotation, sign * torch.arange(first, end), like)
        return self._turns[key]

    def view(self, n: int, row: Row, lane: Lane, at: int) -> _View:
        """The spans of cell number `at` of row `n`."""
        if (n, at) not in self._views:
            self._views[n, at] = _View(self, n, row, lane, self.cells(n, row)[at])
        return self._views[n, at]


class _View:
    """Which keys the queries of one cell see: in the window, pending, and in front (sinks and chosen blocks)."""

    def __init__(self, block_step: _BlockStep, n: int, row: Row, lane: Lane, cell: Cell) -> None:
        s, step = block_step.settings, block_step.step
        self.cell, self.pad = cell, row.pad
        self.queries = slice(cell.first + row.pad - step.seen, cell.end + row.pad - step.seen)
        t = np.arange(cell.first, cell.end, dtype=np.int64)[None]
        self.pending = s.sinks + cell.sealed * s.block
        self.pieces: list[tuple[Piece, Span]] = [(p, self._cut(p.span, n)) for p in step.pieces(lane)]
        self.chosen = min(s.top_k, cell.sealed - sum(n < cell.sealed for n in row.dropped))
        hi = s.top_k * s.block + np.clip(t - s.window + 1, 0, s.sinks)
        self.front = Span(np.full_like(t, (s.top_k - self.chosen) * s.block), hi)
        self.tail = Span(np.zeros_like(t), np.maximum(t - s.window + 1 - self.pending, 0))
        self.behind: list[Span] = []
        if s.positions != "far":
            lo, hi = np.full_like(t, self.pending), np.maximum(t - s.window + 1, self.pending)
            for piece in step.pieces(lane):
                first = piece.start + lane.shift
                begin, end = (np.clip(x + row.pad - first, 0, piece.end - piece.start) for x in (lo, hi))
                self.behind.append(Span(begin, end))

    def _cut(self, span: Span, n: int) -> Span:
        row = slice(n, n + 1) if len(span.lo) > 1 else slice(None)
        return Span(span.lo[row, self.queries], span.hi[row, self.queries])


class _Call:
    """Attention of one layer in one step."""

    def __init__(
        self, block_step: _BlockStep, plan: LayerPlan, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> None:
        self.shared, self.step, self.plan = block_step, block_step.step, plan
        self.settings, self.rotation = block_step.settings, plan.rotation
        self.lane = self.step.arenas[plan.index].lane
        self.how = (scale, softcap, s_aux, self.step.scratch)

    def row(self, n: int, row: Row, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "1 T H E"]:
        """One row's outputs; padding gets 0."""
        memory = self.shared.memory.layer_memory(row, self.plan.index, q, k, v)
        cuts = self.shared.cells(n, row)
        memory.begin(self.shared.memory.done(n, self.plan.index) or memory.now, self.step.tokens)
        mass = self._mass(memory, row, k)
        out = [self._cell(n, row, at, memory, q, k, v, mass) for at in range(len(cuts))]
        newest = min(self.settings.window - 1, self.shared.bounds(row)[1])
        memory.keep_mass(mass[:, :, mass.shape[2] - newest :])
        hidden = q.shape[2] - sum(x.shape[1] for x in out)
        out = [q.new_zeros(1, hidden, q.shape[1], v.shape[3]), *out] if hidden else out
        return out[0] if len(out) == 1 else torch.cat(out, 1)

    def _mass(self, memory: LayerMemory, row: Row, k: Tensor) -> Tensor:
        """The mass of every column before this step, [1, H, M]."""
        mass = torch.zeros(1, memory.shape.heads, k.shape[2], dtype=torch.float32, device=k.device)
        if (old := memory.now.mass) is not None and old.shape[2]:
            end = self.step.seen - self.lane.shift
            mass[:, :, end - old.shape[2] : end] = old
        return mass

    def _cell(
        self, n: int, row: Row, at: int, memory: LayerMemory, q: Tensor, k: Tensor, v: Tensor, mass: Tensor
    ) -> Tensor:
        s, view = self.settings, self.shared.view(n, row, self.lane, at)
        cell, q = view.cell, q[:, :, view.queries]
        q_far = self._far(q, cell.first + row.pad)
        if cell.opens:
            self._open(memory, view, q_far, row.dropped)
        if not memory.filled:
            memory.fill(self._places(memory, view), self.rotation)
        self._hold(memory, row, cell.end - s.window, k, v)
        near = [(piece.turned(q, self.rotation, 0), piece.start) for piece, _ in view.pieces]
        parts = [Part(x, k, v, span, start, mass) for (x, start), (_, span) in zip(near, view.pieces, strict=True)]
        front_mass = None
        if cell.answering and view.chosen:
            front_mass = torch.zeros(1, memory.shape.heads, memory.front[0].shape[2], device=k.device)
        if s.positions == "far":
            parts.append(Part(q_far, memory.now.tail.k, memory.now.tail.v, view.tail, memory.now.at))
            parts.append(Part(q_far, *memory.front, view.front, 0, front_mass))
        else:
            parts += [Part(x, k, v, span, start) for (x, start), span in zip(near, view.behind, strict=True)]
            memory.place_sinks(self._sink_place(view, memory.now.base), self.rotation)
            parts.append(Part(self._moved(q, memory.now.base), *memory.front, view.front, 0, front_mass))
        out = attend([p for p in parts if p.span.hi[0, -1] > p.span.lo[0, -1] or p.mass is mass], *self.how)
        if front_mass is not None:
            self._cite(n, memory, front_mass)
        self._hold(memory, row, cell.end - s.window + 1, k, v)
        self._weigh(memory, row, cell.end - s.window + 1, mass)
        memory.remember(q_far[0])
        return out

    def _far(self, q: Tensor, first: int) -> Tensor:
        """Queries turned to position W - 1, the memory's keys being at 0."""
        if self.rotation is None:
            return q
        at = self.settings.window - 1 - (first - self.step.base)
        return turned(q, self.rotation, self.shared.turn(self.rotation, -at, -at + q.shape[2], -1, q))

    def _moved(self, q: Tensor, base: int) -> Tensor:
        """Queries turned into the frame that begins at `base`."""
        by = self.step.base - base
        if self.rotation is None or not by:
            return q
        return turned(q, self.rotation, self.shared.turn(self.rotation, by, by + 1, 1, q))

    def _open(self, memory: LayerMemory, view: _View, q_far: Tensor, dropped: frozenset[int]) -> None:
        s, cell = self.settings, view.cell
        memory.seal(cell.sealed)
        query = None
        if s.choice == "paper":
            query = q_far[0].double().mean(1)
        elif cell.answering:
            query = q_far[0, :, 0]
        memory.choose(query, cell.sealed, dropped)
        memory.assign(self.step.base)

    def _places(self, memory: LayerMemory, view: _View) -> Ints | None:
        """Positions in their frame of the chosen blocks' first tokens; None where all memory is at one place."""
        s, chosen, shift = self.settings, memory.now.chosen, view.pad - memory.now.base
        assert chosen is not None
        if s.positions == "far":
            return None
        if s.positions == "true":
            return chosen * s.block + s.sinks + shift
        ordered = view.pending - s.block * np.arange(chosen.shape[1], 0, -1) + shift
        return np.broadcast_to(ordered, chosen.shape)

    def _sink_place(self, view: _View, base: int) -> int:
        """Position of the first sink in the frame that begins at `base`."""
        s = self.settings
        first = 0 if s.positions == "true" else view.pending - view.chosen * s.block - s.sinks
        return first + view.pad - base

    def _hold(self, memory: LayerMemory, row: Row, upto: int, k: Tensor, v: Tensor) -> None:
        """Hand over the tokens before `upto` that the memory does not hold yet, their keys turned back."""
        while memory.now.held < upto:
            first = memory.now.held + row.pad
            after = [x.start for x in self.step.segments if x.start > first]
            end = min([upto + row.pad, *after])
            base = max((x for x in self.step.segments if x.start <= first), key=lambda x: x.start).base
            keys = k[:, :, first - self.lane.shift : end - self.lane.shift]
            if self.rotation is not None:
                keys = turned(keys, self.rotation, self.shared.turn(self.rotation, first - base, end - base, -1, k))
            memory.hold(keys, v[:, :, first - self.lane.shift : end - self.lane.shift])

    def _weigh(self, memory: LayerMemory, row: Row, upto: int, mass: Tensor) -> None:
        first = memory.now.weighed
        if first < upto:
            shift = row.pad - self.lane.shift
            memory.weigh(mass[0, :, first + shift : upto + shift])

    def _cite(self, n: int, memory: LayerMemory, mass: Tensor) -> None:
        s, cited = self.settings, self.shared.cited[n]
        slots = mass[0, :, : memory.first_sink].view(len(memory.tags), -1, s.top_k, s.block).sum((1, 3)).tolist()
        for tags, shares in zip(memory.tags, slots, strict=True):
            for tag, share in zip(tags, shares, strict=True):
                if tag is not None and share:
                    cited[tag[0]] = cited.get(tag[0], 0.0) + share


def _added(old: dict[int, float], new: dict[int, float]) -> dict[int, float]:
    return {key: old.get(key, 0.0) + new.get(key, 0.0) for key in {**old, **new}}
