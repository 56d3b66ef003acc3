"""A cache's window that moves by whole segments, and what a method keeps of the segments that left it.

Segments are counted from the first token of each row, its padding left out. A segment leaves the window as a whole
when it is complete and no later token sees it, and only then the method's core folds it: what is kept is a function
of how many tokens were read, not of the chunks they came in.

Letters: B rows, H query heads, G kv heads, T new tokens, M columns of the arena, L tokens per segment, D, E head dims.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from everlong.cache.step import Step
from everlong.cache.stream_memory import MemoryAccount
from everlong.cache.window import Lane
from everlong.errors import CapabilityError
from everlong.models.layout import LayerPlan, Pattern, RotaryPlan
from everlong.ops.attend import native_half
from everlong.ops.rotary import Turn, turn_by, turned
from everlong.ops.segments import past, segment_attention
from everlong.ops.spans import Ints

State = dict[str, Tensor]
"""What a core keeps of a layer: tensors by name, the rows first."""


@dataclass(eq=False)
class Call:
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
    turns: _Turns

    def local(self) -> Float[Tensor, "B T H E"]:
        """The attention to the window, worked out when it is asked for."""
        return self.near()

    @property
    def padding(self) -> int:
        """How many of the new tokens are padding."""
        return min(self.q.shape[2], max(0, -self.start))

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """The places (first, end) of the new tokens, cut where segments of `length` begin; padding is left out."""
        start, end = self.start + self.padding, self.start + self.q.shape[2]
        cuts = [start, *range((start // length + 1) * length, end, length), end]
        return list(itertools.pairwise(cuts)) if start < end else []

    def raw_q(self) -> Float[Tensor, "B H T D"]:
        """The queries without rotation."""
        return self.turns.back(self.q, self.plan, 0, self.q.shape[2], new=True)

    def raw_k(self, first: int, end: int) -> Float[Tensor, "B G L D"]:
        """The keys of the places `first` .. `end - 1` without rotation."""
        a, b = first - self.offset, end - self.offset
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

    def check(self, plan: RotaryPlan) -> None:
        """CapabilityError for a model that it can not serve."""
        ...

    def empty(self, layer: LayerPlan, rows: int, device: torch.device) -> State:
        """What is kept before the first token."""
        ...

    def attend(self, call: Call, state: State) -> tuple[Float[Tensor, "B T H E"], State]:
        """The output of a layer, and what is kept behind the new tokens."""
        ...


class RecurrentMemory:
    """The memory of a cache whose window moves by segments."""

    retrieves: ClassVar[bool] = False

    def __init__(self, core: Core, plan: RotaryPlan) -> None:
        self.core, self.plan = core, plan
        check_layers(core.name, plan)
        core.check(plan)
        self.layers = {p.index for p in plan.layers}
        self.keeps_inputs = core.wants_hidden
        self.states: dict[int, State] = {}
        self._next: dict[int, State] = {}
        self._step: Step | None = None
        self._turns = _Turns()

    def lane(self, pattern: Pattern, chunk: int) -> Lane:
        """A window of the own segment and `back` tokens before it."""
        return Lane(pattern, 0, self.core.segment + self.core.back, chunk, segment=self.core.segment)

    def check(self, seen: int, tokens: int) -> None:
        """Every forward is taken."""

    def begin(self, step: Step, pads: Ints | None) -> None:
        """Prepare a step."""
        self._step, self._next = step, {}
        self._turns = _Turns(step)

    def attend(
        self, layer: LayerPlan, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Any
    ) -> Float[Tensor, "B T H E"]:
        """The window's attention, joined with what the core brings."""
        step = self._step
        assert step is not None
        window = cache(lambda: self._near(step, layer, q, k, v, scale, softcap, s_aux))
        lane = step.arenas[layer.source].lane
        hidden = step.inputs.get(layer.index)
        old = self.states.get(layer.index) or self.core.empty(layer, len(q), q.device)
        found = []
        for rows, pad in _alike(lane.pads, len(q)):
            call = Call(
                layer,
                start=step.seen - pad,
                offset=lane.shift - pad,
                q=q[rows],
                k=k[rows],
                v=v[rows],
                scale=scale,
                hidden=None if hidden is None else hidden[rows].detach(),
                near=lambda rows=rows: window()[rows],
                turns=self._turns,
            )
            found.append(self.core.attend(call, {name: x[rows] for name, x in old.items()}))
        self._next[layer.index] = {name: _joined([state[name] for _, state in found]) for name in old}
        return _joined([out for out, _ in found])

    def _near(
        self,
        step: Step,
        layer: LayerPlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        softcap: float | None,
        s_aux: Any,
    ) -> Float[Tensor, "B T H E"]:
        """The window's attention: many segments all at once, which is faster for short ones; else `near`.

        A step that begins or ends inside a segment is filled up to whole ones; what fills it is seen by nobody.
        """
        L, back, lane = self.core.segment, self.core.back, step.arenas[layer.source].lane
        pieces = step.pieces(lane)
        one_frame = len(pieces) == 1 and pieces[0].turn is None and lane.pads is None
        plain = softcap is None and s_aux is None and (q.element_size() > 2 or native_half(q))
        if not (one_frame and plain) or step.tokens < 2 * L:
            return step.near(layer, q, k, v, scale, softcap, s_aux)
        lead, end = step.seen % L, step.seen + step.tokens
        first, tail = step.seen - lead, -end % L
        at = first - lane.shift
        new_k, new_v = (nn.functional.pad(x[:, :, at : end - lane.shift], (0, 0, 0, tail)) for x in (k, v))
        old_k, old_v = (_before(x, at, back) for x in (k, v))
        places = torch.arange(first, end, L, device=q.device)[:, None] + torch.arange(-back, 0, device=q.device)
        seen = (places >= 0).expand(len(q), -1, -1)
        past_k, past_v = past(new_k, old_k, L), past(new_v, old_v, L)
        filled = nn.functional.pad(q, (0, 0, lead, tail))
        out = segment_attention(filled, new_k, new_v, past_k, past_v, seen, scale)
        return out[:, :, lead : lead + step.tokens].transpose(1, 2)

    def commit(self) -> None:
        """Make the step's changes part of the stream."""
        self.states |= self._next
        self._step, self._next = None, {}

    def abandon(self) -> None:
        """Forget a step that failed."""
        self._step, self._next = None, {}

    def folded(self, seen: int) -> int:
        """Tokens of a row that have left the window, when its next token is number `seen`."""
        return max(0, seen - seen % self.core.segment - self.core.back)

    def check_crop(self, seen: int, target: int, pads: Ints | None) -> None:
        """Refused where a segment was folded since."""
        rows = [0] if pads is None else pads.tolist()
        if self.core.compresses and any(self.folded(seen - pad) != self.folded(target - pad) for pad in rows):
            raise CapabilityError(
                f"crop({target - seen}): a segment of {self.core.segment} tokens was folded into the memory since and "
                "cannot be taken out again; take a mark or a fork before you read on"
            )

    def account(self, seen: int) -> MemoryAccount:
        """All that left the window is dropped, unless it is folded; what is kept lies where the model computes."""
        kept = sum(x.nbytes for state in self.states.values() for x in state.values())
        folded = self.folded(seen)
        return MemoryAccount(
            {"device": kept, "host": 0, "disk": 0},
            dropped_tokens=0 if self.core.compresses else folded,
            compressed_tokens=folded if self.core.compresses else 0,
        )

    def planned_bytes(self, chunk: int) -> int:
        """Constant: the state of one row."""
        empty = [self.core.empty(p, 1, torch.device("meta")) for p in self.plan.layers]
        return sum(x.nbytes for state in empty for x in state.values())

    def fresh(self) -> RecurrentMemory:
        """A memory of the same model and settings that holds nothing."""
        return RecurrentMemory(self.core, self.plan)

    def fork(self, rows: list[int] | None = None) -> RecurrentMemory:
        """An independent memory of the same rows, or of `rows` in this order; tensors are never written in place."""
        other = self.fresh()
        for index, state in self.states.items():
            other.states[index] = {name: x if rows is None else x[rows] for name, x in state.items()}
        return other

    def state(self, sealed: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that is kept."""
        found = {f"memory{i}.{name}": x for i, state in self.states.items() for name, x in state.items()}
        return {name: x.contiguous() for name, x in found.items()}, {"layers": sorted(self.states)}

    def restored(self, tensors: dict[str, Tensor], facts: dict[str, Any], device: torch.device) -> RecurrentMemory:
        """A memory of the same settings with this state."""
        other = self.fresh()
        for index in facts["layers"]:
            names = self.core.empty(self.plan.layers[index], 1, torch.device("meta"))
            other.states[index] = {name: tensors[f"memory{index}.{name}"].to(device) for name in names}
        return other


@dataclass(eq=False)
class _Turns:
    """The turns of one step that undo the model's rotation; the same for all layers that rotate alike."""

    step: Step | None = None
    _found: dict[tuple[int, int, int, bool], Turn] = field(default_factory=dict)

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


def check_layers(name: str, plan: RotaryPlan) -> None:
    """CapabilityError for a model whose layers no memory of segments can serve."""
    reason = None
    if plan.alibi:
        reason = "its scores have ALiBi biases"
    elif any(p.latent for p in plan.layers):
        reason = "it caches latent vectors (MLA)"
    elif any(p.source != p.index for p in plan.layers):
        reason = "its layers share their keys"
    elif any(p.repeated for p in plan.layers):
        reason = "its attention is given repeated keys, not those that it caches"
    elif any(p.pattern != Pattern() for p in plan.layers):
        reason = "some of its layers have a native window"
    if reason is not None:
        raise CapabilityError(f"{name}: this model is not handled: {reason}; use the method sinks or blocks")


def _before(x: Float[Tensor, "B G M D"], column: int, count: int) -> Float[Tensor, "B G C D"]:
    """The `count` columns before `column`; zeros for those before the first."""
    return nn.functional.pad(x[:, :, max(0, column - count) : column], (0, 0, max(0, count - column), 0))


def _alike(pads: Ints | None, rows: int) -> Sequence[tuple[Any, int]]:
    """(rows, padding) for each number of padding tokens; one entry of all rows where they agree."""
    if pads is None or (pads == pads[0]).all():
        return [(slice(None), 0 if pads is None else int(pads[0]))]
    return [(slice(n, n + 1), int(pads[n])) for n in range(rows)]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
