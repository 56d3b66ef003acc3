"""A cache's window that moves by whole segments, and what a method keeps of the segments that left it.

Segments are counted from the first token of each row, its padding left out. A segment leaves the window as a whole
when it is complete and no later token sees it, and only then the method's core folds it: what is kept is a function
of how many tokens were read, not of the chunks they came in.

Letters: B rows, H query heads, G kv heads, T new tokens, M columns of the arena, L tokens per segment, D, E head dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from everlong.cache.step import ForwardPlan
from everlong.cache.stream_memory import MemoryAccount
from everlong.cache.window import WindowLayout
from everlong.errors import CapabilityError
from everlong.methods.recurrent.core import Core, RecurrentCall, State, Turns
from everlong.models.layout import LayerPlan, ModelLayout, Pattern
from everlong.ops.attend import native_half
from everlong.ops.segments import past, segment_attention
from everlong.ops.spans import Ints


class RecurrentMemory:
    """The memory of a cache whose window moves by segments."""

    retrieves: ClassVar[bool] = False

    def __init__(self, core: Core, plan: ModelLayout) -> None:
        self.core = core
        self.plan = plan
        check_layers(core.name, plan)
        core.check(plan)
        self.layers = {p.index for p in plan.layers}
        self.keeps_inputs = core.wants_hidden
        self.states: dict[int, State] = {}
        self._next: dict[int, State] = {}
        self._step: ForwardPlan | None = None
        self._turns = Turns()

    def lane(self, pattern: Pattern, chunk: int) -> WindowLayout:
        """A window of the own segment and `back` tokens before it."""
        return WindowLayout(pattern, 0, self.core.segment + self.core.back, chunk, segment=self.core.segment)

    def check(self, seen: int, tokens: int) -> None:
        """Every forward is taken."""

    def begin(self, step: ForwardPlan, pads: Ints | None) -> None:
        """Prepare a step."""
        self._step = step
        self._next = {}
        self._turns = Turns(step)

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
            call = RecurrentCall(
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
        step: ForwardPlan,
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
        L = self.core.segment
        back = self.core.back
        lane = step.arenas[layer.source].lane
        pieces = step.pieces(lane)
        one_frame = len(pieces) == 1 and pieces[0].turn is None and lane.pads is None
        plain = softcap is None and s_aux is None and (q.element_size() > 2 or native_half(q))
        if not (one_frame and plain) or step.tokens < 2 * L:
            return step.near(layer, q, k, v, scale, softcap, s_aux)
        lead = step.seen % L
        end = step.seen + step.tokens
        first = step.seen - lead
        tail = -end % L
        at = first - lane.shift
        new_k, new_v = (nn.functional.pad(x[:, :, at : end - lane.shift], (0, 0, 0, tail)) for x in (k, v))
        old_k, old_v = (_before(x, at, back) for x in (k, v))
        places = torch.arange(first, end, L, device=q.device)[:, None] + torch.arange(-back, 0, device=q.device)
        seen = (places >= 0).expand(len(q), -1, -1)
        past_k = past(new_k, old_k, L)
        past_v = past(new_v, old_v, L)
        filled = nn.functional.pad(q, (0, 0, lead, tail))
        out = segment_attention(filled, new_k, new_v, past_k, past_v, seen, scale)
        return out[:, :, lead : lead + step.tokens].transpose(1, 2)

    def commit(self) -> None:
        """Make the step's changes part of the stream."""
        self.states |= self._next
        self._step = None
        self._next = {}

    def abandon(self) -> None:
        """Forget a step that failed."""
        self._step = None
        self._next = {}

    def folded(self, seen: int) -> int:
        """Tokens of a row that have left the window, when its next token is number `seen`."""
        return max(0, seen - seen % self.core.segment - self.core.back)

    @property
    def token(self) -> None:
        """Nothing: how a token attends follows from what it is."""

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


def check_layers(name: str, plan: ModelLayout) -> None:
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
