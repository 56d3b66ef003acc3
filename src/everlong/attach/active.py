"""The forward that is running in this thread of control, as the attention functions see it."""

from __future__ import annotations

from contextvars import ContextVar

from everlong.errors import CapabilityError
from everlong.memory.step import Step

_ACTIVE: ContextVar[Step | None] = ContextVar("everlong_active_step", default=None)


def active_step() -> Step:
    """The running step; CapabilityError outside a forward of an attached model."""
    step = _ACTIVE.get()
    if step is None:
        raise CapabilityError("everlong attention: called outside a forward of an attached model with a StreamCache")
    return step


def running_step() -> Step | None:
    """The running step, if there is one."""
    return _ACTIVE.get()


def activate(step: Step | None) -> None:
    """Make `step` the running one; None ends it."""
    _ACTIVE.set(step)
