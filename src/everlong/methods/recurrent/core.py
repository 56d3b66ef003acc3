"""What is special to a trained method, and what it is given of a step: new tokens of one layer, without their rotation.

Letters: B rows, H query heads, G kv heads, T new tokens, M columns of the arena, L tokens per segment, D, E head dims.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.rotary import RotaryAngles, turn_by, turned

State = dict[str, Tensor]
"""What a core keeps of a layer: tensors by name, the rows first."""


@dataclass(eq=False)
class Turns:
    """The turns of one step that undo the model's rotation; the same for all layers that rotate alike."""

    step: ForwardPlan | None = None
    _found: dict[tuple[int, int, int, bool], RotaryAngles] = field(default_factory=dict)

    def back(self, x: Tensor, layer: LayerPlan, first: int, end: int, new: bool = False) -> Tensor:
        """`x` [B, heads, T, D] without its rotation: the columns `first` .. `end - 1`, or the new tokens."""
        if layer.rotation is None or first == end:
            return x
        key = (id(layer.rotation), first, end, new)
        if key not in self._found:
            assert self.step is not None
            lane = self.step.arenas[layer.source].lane
            at = np.arange(first, end) + (self.step.seen if new else lane.shift)
            bases = np.array([s.base for s in self.step.segments])
            starts = np.array([s.start for s in self.step.segments])
            position = at - bases[np.searchsorted(starts, at, side="right") - 1]
            self._found[key] = turn_by(layer.rotation, torch.from_numpy(-position), x)
        return turned(x, layer.rotation, self._found[key])


@dataclass(eq=False)
class RecurrentCall:
    """New tokens of rows that stand alike in their text, in one layer.

    `start` is the place of the first new token in its row (negative in padding); column j holds place j + `offset`.
    `k`, `v` [B, G, M, D] are the columns, `q` [B, H, T, D] the new queries, all rotated as the model does it.
    `hidden` [B, T, W] is what entered the attention, for a core that wants it.
    """

    plan: LayerPlan
    start: int
    offset: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    hidden: Tensor | None
    near: Callable[[], Tensor]
    turns: Turns
    added: Tensor | None = None
    """What a core adds to the output [B, T, W] of the layer's attention, behind its output projection."""

    def local(self) -> Float[Tensor, "B T H E"]:
        """The attention to the window, worked out when it is asked for."""
        return self.near()

    @property
    def padding(self) -> int:
        """How many of the new tokens are padding."""
        return min(self.q.shape[2], max(0, -self.start))

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """The places (first, end) of the new tokens, cut where segments of `length` begin; padding is left out."""
        start = self.start + self.padding
        end = self.start + self.q.shape[2]
        cuts = [start, *range((start // length + 1) * length, end, length), end]
        return list(itertools.pairwise(cuts)) if start < end else []

    def raw_q(self) -> Float[Tensor, "B H T D"]:
        """The queries without rotation."""
        return self.turns.back(self.q, self.plan, 0, self.q.shape[2], new=True)

    def raw_k(self, first: int, end: int) -> Float[Tensor, "B G L D"]:
        """The keys of the places `first` .. `end - 1` without rotation."""
        a = first - self.offset
        b = end - self.offset
        return self.turns.back(self.k[:, :, a:b], self.plan, a, b)

    def values(self, first: int, end: int) -> Float[Tensor, "B G L E"]:
        """The values of these places."""
        return self.v[:, :, first - self.offset : end - self.offset]


@runtime_checkable
class Core(Protocol):
    """What is special to a method."""

    @property
    def name(self) -> str:
        """The method's."""
        ...

    @property
    def segment(self) -> int:
        """Tokens per segment."""
        ...

    @property
    def back(self) -> int:
        """How many tokens before its own segment a token sees."""
        ...

    @property
    def compresses(self) -> bool:
        """Whether what leaves the window is folded (and not dropped)."""
        ...

    @property
    def wants_hidden(self) -> bool:
        """Whether what enters a layer's attention is needed."""
        ...

    def check(self, plan: ModelLayout) -> None:
        """CapabilityError for a model that it can not serve."""
        ...

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """What is kept before the first token."""
        ...

    def attend(self, call: RecurrentCall, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """The output of a layer, and what is kept behind the new tokens."""
        ...
