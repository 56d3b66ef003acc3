"""What one layer keeps of all that was read in a constant size: linear attention, SSM, short convolution.

The layer asks for its states and writes them through transformers' cache interface, in place or not. A copy made when
a step begins is what a step that fails leaves behind.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from everlong.errors import CapabilityError
from everlong.models.layout import ModelLayout

CONV = "conv"
RECURRENT = "recurrent"

States = dict[tuple[str, int], Tensor]
"""By kind and number within the layer: tensors [B, ...]."""


class LayerState(LinearAttentionCacheLayerMixin):
    """The states of one layer; what `transformers.cache_utils.LinearAttentionLayer` does, as part of a step.

    `conv_states` [B, C, K] hold what entered a convolution last, `recurrent_states` [B, ...] what is folded into a
    state.
    """

    is_compileable = False

    def __init__(self, count: int) -> None:
        super().__init__(number_of_states=count)
        self._before: tuple[int, States, dict[int, bool]] | None = None

    @property
    def states(self) -> States:
        """All that are kept now."""
        kinds = ((CONV, self.conv_states), (RECURRENT, self.recurrent_states))
        return {(kind, i): x for kind, held in kinds for i, x in held.items() if x is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of the states."""
        return sum(x.nbytes for x in self.states.values())

    # A step: begin, read and write, commit or abandon.

    def begin(self, seen: int) -> None:
        """Keep what a step behind `seen` tokens may overwrite."""
        self._before = seen, {name: _own(x) for name, x in self.states.items()}, dict(self.has_previous_state)

    def commit(self) -> None:
        """Make the step part of the stream."""
        self._before = None
        self._take({name: x.detach() for name, x in self.states.items()}, dict(self.has_previous_state))

    def abandon(self, seen: int) -> None:
        """Be as before the step, if the stream still holds `seen` tokens as it did then."""
        before = self._before
        if before is not None and before[0] == seen:
            self._take(before[1], before[2])
        self._before = None

    def _take(self, states: States, previous: dict[int, bool]) -> None:
        for i in range(self.number_of_states):
            self.conv_states[i] = conv = states.get((CONV, i))
            self.recurrent_states[i] = recurrent = states.get((RECURRENT, i))
            self.is_conv_states_initialized[i] = conv is not None
            self.is_recurrent_states_initialized[i] = recurrent is not None
            if conv is not None:
                self.conv_kernel_size[i] = conv.shape[-1]
                self.device = conv.device
                self.dtype = conv.dtype
            self.has_previous_state[i] = previous.get(i, False)

    # What transformers asks of it.

    def lazy_initialization(
        self, conv_states: Tensor | None = None, recurrent_states: Tensor | None = None, state_idx: int = 0
    ) -> None:
        """Nothing: a state is made when it is first written."""

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        """Keep the newest columns of what enters a convolution; all columns that its new outputs need."""
        new = conv_states.detach()
        held = self.conv_states[state_idx]
        width = held.shape[-1] if held is not None else conv_kernel_size or new.shape[-1]
        if held is not None and self.has_previous_state[state_idx]:
            full = torch.cat([held, new], -1)
        else:
            full = torch.nn.functional.pad(new, (max(0, width - new.shape[-1]), 0))
        self._set(CONV, state_idx, full[..., full.shape[-1] - width :])
        self.has_previous_state[state_idx] = True
        return full

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        """Keep a new state; returns it."""
        return self._set(RECURRENT, state_idx, recurrent_states)

    def _set(self, kind: str, number: int, new: Tensor) -> Tensor:
        """A tensor of its own, as layers write it in place."""
        held = self.conv_states if kind == CONV else self.recurrent_states
        found = held[number]
        if found is None or found.shape != new.shape or found.dtype != new.dtype:
            self._take(self.states | {(kind, number): _own(new)}, dict(self.has_previous_state))
        elif found is not new:
            found.copy_(new.detach())
        kept = held[number]
        assert kept is not None
        return kept

    # Going back, and rows.

    def clear(self) -> None:
        """Keep nothing."""
        self._before = None
        self._take({}, {})

    def select_rows(self, rows: Int[Tensor, " B"]) -> None:
        """Keep, repeat or reorder batch rows."""
        chosen = {name: _own(x.index_select(0, rows.to(x.device))) for name, x in self.states.items()}
        self._take(chosen, dict(self.has_previous_state))

    def copy_to(self, other: LayerState) -> None:
        """Give `other` states of its own that are equal."""
        other.restore(self.states, [i for i, has in self.has_previous_state.items() if has])

    def restore(self, states: States, previous: list[int]) -> None:
        """Keep copies of `states`; those numbered in `previous` are asked for by the next step."""
        self._before = None
        self._take({name: _own(x) for name, x in states.items()}, dict.fromkeys(previous, True))


class ModelStates(dict[int, LayerState]):
    """The states of a model's layers, by index: one stream's, or those of the rows of a batch."""

    def __init__(self, plan: ModelLayout) -> None:
        super().__init__({p.index: LayerState(p.count) for p in plan.states})

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(state.nbytes for state in self.values())

    def begin(self, seen: int) -> None:
        """A step behind `seen` tokens begins."""
        for state in self.values():
            state.begin(seen)

    def commit(self) -> None:
        """The step becomes part of the stream."""
        for state in self.values():
            state.commit()

    def abandon(self, seen: int) -> None:
        """The step failed, and the stream still holds `seen` tokens."""
        for state in self.values():
            state.abandon(seen)

    def check_crop(self, seen: int, target: int) -> None:
        """CapabilityError where the tokens from `target` to `seen` would have to be taken out of a state."""
        if self and 0 < target < seen:
            raise CapabilityError(
                f"crop({target - seen}): layers of this model fold all that they read into a state, from which nothing "
                "can be taken back; take a mark or a fork before you read on"
            )

    def crop(self, target: int) -> None:
        """Only the first `target` tokens were read."""
        if not target:
            self.clear_all()

    def clear_all(self) -> None:
        """Every layer keeps nothing."""
        for state in self.values():
            state.clear()

    def select_rows(self, rows: Int[Tensor, " B"]) -> None:
        """Keep, repeat or reorder batch rows."""
        for state in self.values():
            state.select_rows(rows)

    def copy_to(self, other: ModelStates) -> None:
        """Give `other` states of its own that are equal."""
        for index, state in self.items():
            state.copy_to(other[index])


def _own(x: Tensor) -> Tensor:
    """A copy that can be written inside and outside inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)
