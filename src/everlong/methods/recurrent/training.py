"""One forward under training: what each layer needs of it, and what is carried to the next piece of a long row.

Letters: B rows, H query heads, G kv heads, N segments, L tokens per segment, D, E head dims, W width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.methods.recurrent.memory import check_layers
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.rotary import RotaryAngles, turn_by, turned
from everlong.ops.segments import NONE, Aligned


@runtime_checkable
class TrainState(Protocol):
    """What a layer carries from one piece of a row to the next."""

    def norm(self) -> float:
        """Its size, for a look at training: the mean over rows of a Frobenius norm."""
        ...

    def detach(self) -> TrainState:
        """The same numbers, through which no gradient flows."""
        ...


@dataclass(frozen=True, eq=False)
class TrainCall:
    """One layer of a forward under training.

    `q` [B, H, N * L, D], `k`, `v` [B, G, N * L, *] are rotated by the model, `raw_q` and `raw_k` are not. `parameters`
    are the layer's own of the memory, `hidden` [B, N * L, W] what entered its attention, `write` [B, N * L] weights.
    """

    plan: LayerPlan
    module: Any
    q: Tensor
    k: Tensor
    v: Tensor
    raw_q: Tensor
    raw_k: Tensor
    scale: float
    text: Aligned
    parameters: dict[str, Tensor]
    write: Tensor | None
    state: Any
    hidden: Tensor | None
    extra: dict[int, Tensor]
    """What each layer adds to the loss: the core puts its own there."""
    added: dict[int, Tensor]
    """What is added to the output [B, N * L, W] of each layer's attention: likewise."""


@runtime_checkable
class TrainableCore(Protocol):
    """What is special to a method under training."""

    @property
    def name(self) -> str:
        """The method's."""
        ...

    @property
    def segment(self) -> int:
        """Tokens per segment."""
        ...

    @property
    def wants_hidden(self) -> bool:
        """Whether the layer's input is needed."""
        ...

    @property
    def first_segment_is_stock(self) -> bool:
        """Whether the first segment of a text gives what the stock model gives."""
        ...

    def train(self, call: TrainCall) -> tuple[Float[Tensor, "B H NL E"], TrainState]:
        """The attention of a layer, and what it carries on."""
        ...


@dataclass(eq=False)
class Carried:
    """The memory between forwards over consecutive pieces of the same rows, each but the last of whole segments.

    Gradients flow back into earlier pieces until `detach`. A row is one document, padded at its end.
    """

    seen_tokens: int = 0
    states: dict[int, TrainState] = field(default_factory=dict)

    def check(self, text: Aligned) -> None:
        """CapabilityError where the piece does not go on where the last one ended."""
        one = ((text.document == 0) | (text.document == NONE)).all()
        if self.seen_tokens % text.length or not bool(one):
            raise CapabilityError(
                f"carried: the piece at token {self.seen_tokens} must begin a segment of {text.length} tokens of "
                "the only document of its row; cut rows at whole segments, and do not pack them"
            )

    def take(self, step: TrainStep, tokens: int) -> None:
        """Go on behind `step`, a forward over `tokens` tokens per row."""
        self.states, self.seen_tokens = dict(step.states), self.seen_tokens + tokens

    def detach(self) -> None:
        """Cut the gradient here: truncated back-propagation."""
        self.states = {layer: state.detach() for layer, state in self.states.items()}


@dataclass(eq=False)
class TrainStep:
    """One forward over aligned segments."""

    core: TrainableCore
    parameters: Callable[[int], dict[str, Tensor]]
    plan: ModelLayout
    text: Aligned
    write: Tensor | None
    before: dict[int, TrainState]
    positions: Int[Tensor, "B NL"]
    states: dict[int, TrainState] = field(default_factory=dict)
    hidden: dict[int, Tensor] = field(default_factory=dict)
    extra: dict[int, Tensor] = field(default_factory=dict)
    """What each layer adds to the loss."""
    added: dict[int, Tensor] = field(default_factory=dict)
    """What the memory adds to the output of each layer's attention."""
    _turns: dict[int, RotaryAngles] = field(default_factory=dict)

    def attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Float[Tensor, "B H NL E"]:
        """The attention of a layer; what it carries on is kept. May be called again by gradient checkpointing."""
        layer = module.layer_idx
        plan = self.plan.by_index[layer]
        call = TrainCall(
            plan,
            module,
            *(q, k, v),
            *(self._raw(x, plan) for x in (q, k)),
            scale=scale,
            text=self.text,
            parameters=self.parameters(layer),
            write=self.write,
            state=self.before.get(layer),
            hidden=self.hidden.get(layer),
            extra=self.extra,
            added=self.added,
        )
        out, self.states[layer] = self.core.train(call)
        return out

    def _raw(self, x: Tensor, plan: LayerPlan) -> Tensor:
        """`x` without the model's rotation."""
        rotation = plan.rotation
        if rotation is None:
            return x
        if id(rotation) not in self._turns:
            alike = bool((self.positions == self.positions[:1]).all())
            self._turns[id(rotation)] = turn_by(rotation, -(self.positions[0] if alike else self.positions), x)
        return turned(x, rotation, self._turns[id(rotation)])


def check_unweighted(call: TrainCall, name: str) -> None:
    """CapabilityError where what tokens write is to be weighed, and the method `name` knows no such weight."""
    if call.write is not None and bool((call.write != 1).any()):
        raise CapabilityError(f"write_weight: {name} keeps every token alike; leave it out, or train infini")


def check_trainable(plan: ModelLayout, core: TrainableCore) -> None:
    """CapabilityError for a model whose layers cannot be trained with segments."""
    check_layers(core.name, plan)
    if plan.states:
        raise CapabilityError(
            f"{core.name}: layer {plan.states[0].index} keeps a state of all that it read, and would read what fills "
            "up segments in training; train on a model whose layers all attend"
        )
    if any(p.temperature is not None for p in plan.layers):
        raise CapabilityError(
            f"{core.name}: this model scales queries by their place; it cannot be trained with segments"
        )
