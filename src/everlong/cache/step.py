"""One forward pass over new tokens: which parts of the context each layer attends to, and with which query.

Frames (docs/methods/sinks.md): positions handed to the model are place - base (positions.py; a place is an index where
there are no images), so they stay below the trained length for ever. Keys of an older frame are met by a query turned
by the difference of the bases; sinks by a query turned back until the window begins right behind them. No stored key
is ever turned.

Letters: B batch, H heads, T new tokens, M columns, D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.cache.frames import Frame, KeyRange
from everlong.cache.layer_kv import LayerKV
from everlong.cache.positions import ImagePlanes, TokenPlaces
from everlong.cache.window import WindowLayout
from everlong.errors import CapabilityError, SelfCheckError
from everlong.models.layout import LayerPlan, Temperature
from everlong.ops.attend import AttentionPart, attend
from everlong.ops.spans import Ints, KeyIntervals
from everlong.ops.token_tables import LayerColumns, TokenTables, Words
from everlong.ops.workspace import Workspace


class TokenAttention(Protocol):
    """What a memory knows of the attention to one new token before the token is computed."""

    @property
    def sizes(self) -> tuple[int, int]:
        """How many ranges, and how many moves, `fill` writes for a layer."""
        ...

    def fill(self, tables: TokenTables, at: Words, layers: Sequence[LayerPlan], columns: LayerColumns) -> None:
        """Write down the attention of `layers`, rows `at` of the tables: they rotate alike and have these columns."""
        ...


@runtime_checkable
class FarAttention(Protocol):
    """What a step asks of a memory: the attention of the `layers` that it serves."""

    layers: set[int]

    @property
    def token(self) -> TokenAttention | None:
        """What it knows of the attention to the running step's one token; None where that follows from the token."""
        ...

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """Attention of a layer over its columns `k`, `v` [B, G, M, D] and what the memory brings."""
        ...


@dataclass(eq=False)
class ForwardPlan:
    """`tokens` new tokens behind `seen` earlier ones, in the frame that starts at `base`."""

    seen: int
    tokens: int
    rows: int
    base: int
    segments: list[Frame]
    arenas: dict[int, LayerKV]
    plans: Mapping[int, LayerPlan]
    scratch: Workspace
    dtype: torch.dtype
    place: int = 0
    """Where the first new token stands, before the frame's base is taken off."""
    places: TokenPlaces = field(default_factory=TokenPlaces)
    """Of all tokens of the stream, the new ones included."""
    planes: ImagePlanes | None = None
    """Where the new tokens stand by axis, if there is an image among them."""
    calls: dict[int, int] = field(default_factory=dict)
    slopes: Tensor | None = None
    memory: FarAttention | None = None
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """What entered the attention of each layer, [B, T, W], where a memory needs it (hooks/patch.py)."""
    added: dict[int, Tensor] = field(default_factory=dict)
    """What a memory adds to the output of each layer's attention, [B, T, W] (hooks/patch.py)."""
    _pieces: dict[int, list[KeyRange]] = field(default_factory=dict)

    def positions(self, device: torch.device) -> Int[Tensor, "*P B T"]:
        """The position of each new token in the frame of the step; on each axis, where there is an image."""
        if self.planes is not None:
            return torch.from_numpy(self.planes.planes - self.base)[:, None].to(device)
        start = self.place - self.base
        if self.tokens == self.rows == 1:
            return torch.tensor([[start]], device=device)
        return torch.arange(start, start + self.tokens, device=device).expand(self.rows, -1)

    def columns(self, lane: WindowLayout) -> int:
        """M, how many columns the arenas of this lane show during the step."""
        return self.seen + self.tokens - lane.shift

    def write(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store the new keys and values of a layer; returns all its columns."""
        if torch.is_autocast_enabled(k.device.type):
            k, v = (x.to(self.dtype) for x in (k, v))
        if layer not in self.arenas:
            raise CapabilityError(
                f"layer {layer}: stores keys that it did not store when the model was attached (an image's, perhaps); "
                "give text alone, or run the model without the cache"
            )
        return self.arenas[layer].write(k, v, self.seen)

    def take_added(self, layer: int) -> Tensor | None:
        """What a memory adds to the output of a layer's attention; given once."""
        return self.added.pop(layer, None)

    def check_call(self, layer: int, sliding: int | None, extra: Mapping[str, Any]) -> None:
        """SelfCheckError where a layer slides over other than what its config promised.

        `extra` is what else it gives to its attention; CapabilityError for a mask.
        """
        if extra.get("attention_mask") is not None:
            raise CapabilityError(f"layer {layer}: got a ready-made attention mask; give 2-D masks or none")
        native = self.plans[self.plans[layer].source].pattern
        if sliding is not None and sliding != native.sliding:
            raise SelfCheckError(
                f"layer {layer}: slides over {sliding} tokens, but its config promised {native}; the model cannot be "
                "attached"
            )

    def layer_that_returned(self, k: Tensor) -> int | None:
        """The layer whose `write` in this step returned this very tensor."""
        return next((i for i, a in self.arenas.items() if a.view is not None and a.view[0] is k), None)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> Tensor:
        """Attention output [B, T, H, E] of a layer over `k` and `v`, its columns as the model hands them over.

        Under autocast all is computed in the model's own type, and the output is of the query's type.
        """
        if torch.is_autocast_enabled(q.device.type):
            with torch.autocast(q.device.type, enabled=False):
                own_q, own_k, own_v = (x.to(self.dtype) for x in (q, k, v))
                return self.attend(layer, own_q, own_k, own_v, scale, softcap, s_aux).to(q.dtype)
        self.calls[layer] = self.calls.get(layer, 0) + 1
        plan = self.plans[layer]
        lane = self.arenas[plan.source].lane
        skip = self.tokens - q.shape[2]
        if plan.temperature is not None:
            q = self._tempered(q, lane, plan.temperature, skip)
        if self.memory is not None and layer in self.memory.layers:
            if skip:
                raise CapabilityError(f"layer {layer} asks with some of its tokens only; use the method sinks")
            return self.memory.attend(plan, q, k, v, scale, softcap, s_aux)
        return self.near(plan, q, k, v, scale, softcap, s_aux)

    def near(
        self,
        plan: LayerPlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        softcap: float | None,
        s_aux: Tensor | None,
    ) -> Tensor:
        """Attention to the sinks and the window: all that a method without a memory brings."""
        skip = self.tokens - q.shape[2]
        parts = []
        for piece in self.pieces(self.arenas[plan.source].lane):
            span = KeyIntervals(piece.span.lo[:, skip:], piece.span.hi[:, skip:]) if skip else piece.span
            parts.append(AttentionPart(piece.turned(q, plan.rotation, skip), k, v, span, piece.start))
        return attend(parts, scale, softcap, s_aux, self.scratch)

    def knows_token(self, layers: Sequence[int]) -> bool:
        """Whether all that the attentions of `layers` need is known before the step's one token is computed."""
        plans = [self.plans[layer] for layer in layers]
        served = set() if self.memory is None or self.memory.token is not None else self.memory.layers
        known = not any(p.temperature is not None or p.index in served for p in plans)
        return known and all(self.arenas[p.source].has_room(self.seen, self.dtype) for p in plans)

    def token_tables(self, layers: Sequence[int]) -> TokenTables | None:
        """The attentions of `layers` in a step of one token of one stream; None where not all is known before it."""
        if not self.knows_token(layers):
            return None
        plans = [self.plans[layer] for layer in layers]
        served = self.memory.layers if self.memory is not None else set()
        token = None if self.memory is None else self.memory.token
        sizes = (0, 0) if token is None else token.sizes
        lanes = [self.arenas[p.source].lane for p in plans]
        by_window = {id(lane): lane for p, lane in zip(plans, lanes, strict=True) if p.index not in served}
        near = max((len(self.pieces(lane)) for lane in by_window.values()), default=0)
        tables = TokenTables.empty(len(layers), max(near, sizes[0]), sizes[1])
        groups: dict[tuple[int, int, bool], list[int]] = {}
        for n, (plan, lane) in enumerate(zip(plans, lanes, strict=True)):
            groups.setdefault((id(lane), id(plan.rotation), plan.index in served), []).append(n)
        for (_, _, is_far), members in groups.items():
            at = np.array(members)
            columns = LayerColumns([self.arenas[plans[n].source].pair for n in members])
            tables.write_to(at, columns, self.seen - lanes[members[0]].shift)
            if is_far and token is not None:
                token.fill(tables, at, [plans[n] for n in members], columns)
            else:
                self._fill_near(tables, at, plans[members[0]], columns)
        return tables

    def _fill_near(self, tables: TokenTables, at: Words, plan: LayerPlan, columns: LayerColumns) -> None:
        for r, piece in enumerate(self.pieces(self.arenas[plan.source].lane)):
            first, _, _, end = piece.span.limits(0, 1)
            if first < end:
                angles = piece.angles(plan.rotation, columns.like)
                turn = None if angles is None else angles.matrix
                tables.attend_to(at, r, columns, piece.start + first, end - first, turn)

    def _tempered(self, q: Tensor, lane: WindowLayout, temperature: Temperature, skip: int) -> Tensor:
        """Queries that the model scaled by where they stand, scaled by their place in the cache instead."""
        own = lane.own(self.seen, self.tokens)
        start = self.seen if temperature.indexed else self.seen - self.base
        model = np.broadcast_to(start + np.arange(self.tokens)[None], own.shape)
        ratio = temperature.scale(lane.place(own)) / temperature.scale(model)
        return q * torch.from_numpy(ratio[:, None, skip:, None]).to(q.device, q.dtype)

    def pieces(self, lane: WindowLayout) -> list[KeyRange]:
        """The sinks that a window has left, then the window, segment by segment; the same for all layers of a lane."""
        if id(lane) not in self._pieces:
            near = [self._near(lane, n) for n in range(len(self.segments))]
            self._pieces[id(lane)] = [p for p in (self._far(lane), *near) if p is not None]
        return self._pieces[id(lane)]

    def moved_up(self, lane: WindowLayout) -> Ints:
        """By how much the window of each new token moves up to stand right behind the sinks: [R, T]."""
        own = lane.own(self.seen, self.tokens)
        if self.places.is_text:
            return own - lane.place(own)
        first = np.maximum(own - lane.window + 1, lane.sinks)
        return self.places.of(first) - self.places.at(lane.sinks)

    def only_lane(self) -> WindowLayout:
        """The lane of a model whose layers all see alike."""
        (lane,) = {id(a.lane): a.lane for a in self.arenas.values()}.values()
        return lane

    def hidden(self) -> Tensor:
        """Which columns each new token does not see, as a dense mask [T, M] (for models that mask by themselves)."""
        lane = self.only_lane()
        hidden = torch.ones(self.tokens, self.columns(lane), dtype=torch.bool)
        for piece in self.pieces(lane):
            j = np.arange(piece.end - piece.start)
            seen = (j >= piece.span.lo[0][:, None]) & (j < piece.span.hi[0][:, None])
            hidden[:, piece.start : piece.end] &= torch.from_numpy(~seen)
        return hidden

    def alibi(self, slopes: Tensor) -> Tensor:
        """ALiBi biases [H, T, M] of every column: minus slope times distance in the cache (arXiv 2108.12409, 3)."""
        lane = self.only_lane()
        own = lane.own(self.seen, self.tokens)[0]
        column = np.arange(self.columns(lane))
        distance = (own[:, None] - column - lane.shift).astype(np.float32)
        distance[:, : lane.fixed] = lane.place(own)[:, None] - column[: lane.fixed]
        return -slopes[:, None, None] * torch.from_numpy(distance).to(slopes.device)

    def _near(self, lane: WindowLayout, n: int) -> KeyRange | None:
        after = self.segments[n + 1].start if n + 1 < len(self.segments) else self.seen + self.tokens
        first = max(self.segments[n].start, lane.oldest(self.seen))
        if first >= after:
            return None
        by = self.base - self.segments[n].base
        span = lane.near(self.seen, self.tokens, first, after)
        return KeyRange(first - lane.shift, after - lane.shift, span, np.array([by]) if by else None)

    def _far(self, lane: WindowLayout) -> KeyRange | None:
        if not lane.fixed or self.seen + self.tokens <= lane.window:
            return None
        span = lane.far(self.seen, self.tokens)
        if not (span.hi > span.lo).any():
            return None
        turn = self.base - self.moved_up(lane)
        return KeyRange(0, lane.fixed, span, (turn[0] if len(turn) == 1 else turn) if turn.any() else None)
