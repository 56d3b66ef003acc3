"""The forward that is running in this thread of control, as the attention functions see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from everlong.cache.packed import PackedPlan
from everlong.cache.step import ForwardPlan
from everlong.errors import CapabilityError
from everlong.models.internals import attention_input, with_added

RunningStep = ForwardPlan | PackedPlan

_ACTIVE: ContextVar[RunningStep | None] = ContextVar("everlong_active_step", default=None)

_UNMASKED: ContextVar[bool] = ContextVar("everlong_unmasked", default=False)


def active_step() -> RunningStep:
    """The running step; CapabilityError outside a forward of an attached model."""
    step = _ACTIVE.get()
    if step is None:
        raise CapabilityError("everlong attention: called outside a forward of an attached model with a StreamCache")
    return step


def active_plan() -> ForwardPlan:
    """The running step of one stream (or of a batch of streams of one length)."""
    step = active_step()
    if not isinstance(step, ForwardPlan):
        raise CapabilityError("everlong attention: streams are packed where they cannot be; read them one by one")
    return step


def running_step() -> RunningStep | None:
    """The running step, if there is one."""
    return _ACTIVE.get()


def needs_no_mask() -> bool:
    """Whether what the model builds masks for now is a step, or the forward around one (see `unmasked`)."""
    return _UNMASKED.get() or _ACTIVE.get() is not None


@contextmanager
def unmasked() -> Iterator[None]:
    """What runs inside, in this thread, builds masks for a step that has not begun yet."""
    before = _UNMASKED.set(True)
    try:
        yield
    finally:
        _UNMASKED.reset(before)


def activate(step: RunningStep | None) -> None:
    """Make `step` the running one; None ends it."""
    _ACTIVE.set(step)


def keep_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What enters a layer's attention is what some memories are made of."""
    step = running_step()
    if step is not None:
        step.inputs[module.layer_idx] = attention_input(args, kwargs)


def add_to_output(module: Any, args: tuple[Any, ...], output: Any) -> Any:
    """What leaves a layer's attention, with what a memory adds to it."""
    step = running_step()
    added = None if step is None else step.take_added(module.layer_idx)
    return output if added is None else with_added(output, added)
