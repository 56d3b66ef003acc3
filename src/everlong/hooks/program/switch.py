"""Which forwards of a decoder are run from its program: one token of each stream, asked for as generation asks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from everlong.cache.step import ForwardPlan
from everlong.errors import one_line
from everlong.hooks.program.listing import ROWS
from everlong.hooks.program.make import TOLERANCE, Recording, make_program
from everlong.hooks.program.record import NotRecorded
from everlong.hooks.program.run import Program
from everlong.hooks.program.watch import Watch

logger = logging.getLogger(__name__)

_GIVEN = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "return_dict"}


class Switch:
    """The program of one decoder, made at the first token that it could run, and made anew when the decoder changed."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why there is none."""
        self._program: Program | None = None
        self._watch: Watch | None = None

    @property
    def made(self) -> Program | None:
        """The program as it was last made."""
        return self._program

    def adopt(self, watch: Watch, program: Program | None, reason: str | None) -> None:
        """Take the program that was kept of the decoder as `watch` knows it, or why it has none."""
        self._program = program
        self.reason = reason
        self._watch = watch

    def program(self, model: Recording) -> Program | None:
        """The program, if the decoder has one."""
        if self._watch is None or not self._watch.same():
            watch = Watch(model.decoder)
            self._program, self.reason = _made(watch, model)
            # Last, so that an interrupt meanwhile leaves it to be made again.
            self._watch = watch
        return self._program


def _made(watch: Watch, model: Recording) -> tuple[Program | None, str | None]:
    """The program, or why there is none; a model that works by its modules is never refused for want of one."""
    if not watch.plain():
        return None, "its modules have hooks or forwards of their own"
    if watch.other is not None:
        return None, f"{watch.other} may compute otherwise at any time"
    try:
        return make_program(model), None
    except NotRecorded as error:
        return None, str(error)
    except Exception as error:
        logger.exception("a decoder could not be recorded; it runs by its modules")
        return None, one_line(error)


_SWITCHES: WeakKeyDictionary[nn.Module, Switch] = WeakKeyDictionary()


def switch_of(decoder: nn.Module) -> Switch:
    """The switch of a decoder, which lasts as long as it."""
    return _SWITCHES.setdefault(decoder, Switch())


def why_not(decoder: nn.Module, unpackable: str | None) -> str | None:
    """Why a decoder that was attached is not run from a program; None where it is.

    `unpackable`: why its streams cannot be packed, which stands against a program too.
    """
    if unpackable is not None:
        return unpackable
    if next(decoder.parameters()).device.type != "cpu":
        return "it is not on the CPU"
    return switch_of(decoder).reason


def runs_from_list(steps: Sequence[ForwardPlan], given: dict[str, Any]) -> bool:
    """Whether a forward is one that a program answers: one token of each stream, without gradients, on a CPU."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or len(steps) > ROWS:
        return False
    if any(step.tokens != 1 or step.rows != 1 or step.dtype not in TOLERANCE for step in steps):
        return False
    if any(value is not None for name, value in given.items() if name not in _GIVEN):
        return False
    ids = given.get("input_ids")
    on_cpu = ids is not None and ids.device.type == "cpu"
    return on_cpu and given.get("return_dict") is not False and given.get("use_cache") is not False
