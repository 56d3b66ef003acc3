"""Which forwards of a decoder are run from its program: one token of each stream, asked for as generation asks.

And whether the decoder is still the one that was recorded: its parts, weights, hooks and own forwards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import is_
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from everlong.cache.step import ForwardPlan
from everlong.errors import one_line
from everlong.hooks.program.graph import GraphProgram, Graphs, make_graphs
from everlong.hooks.program.listing import ROWS
from everlong.hooks.program.make import TOLERANCE, Recording, make_program
from everlong.hooks.program.record import NotRecorded
from everlong.hooks.program.run import Program
from everlong.models.packed_linear import SAMPLE, PackedLinear
from everlong.ops.gpu.available import interpreted, runs_kernels
from everlong.ops.native import extension

logger = logging.getLogger(__name__)

_GIVEN = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "return_dict"}

_KNOWN = {"torch", "transformers", "everlong"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@runtime_checkable
class TokenProgram(Protocol):
    """What runs a decoder's forward for one token of each of some streams."""

    answer: type[Any]

    def run(self, steps: Sequence[ForwardPlan], inputs: Sequence[list[Tensor]]) -> Tensor | None:
        """The last hidden states; None where it cannot for these tokens, and has done nothing."""
        ...


class Watch:
    """Takes down what `decoder` consists of; `same` is asked before each token, so it only compares."""

    def __init__(self, decoder: nn.Module) -> None:
        modules = list(decoder.modules())
        kinds = (type(x) for x in (*modules, *decoder.parameters(), *decoder.buffers()))
        others = (kind for kind in kinds if kind.__module__.split(".")[0] not in _KNOWN)
        self.other: str | None = next((f"{kind.__module__}.{kind.__qualname__}" for kind in others), None)
        """A class of another package, whose forward may depend on what is not watched: an adapter may be turned off.

        Or whose weights are more than one tensor.
        """
        self._hooks: list[dict[Any, Any]] = [getattr(m, name) for m in modules for name in _HOOKS]
        self._own = [vars(m) for m in modules if m is not decoder]
        parts = [(m._modules, name, part) for m in modules for name, part in m._modules.items()]
        stored = [
            (store, name, x) for m in modules for store in (m._parameters, m._buffers) for name, x in store.items()
        ]
        self._stores: list[dict[str, Any]] = [store for store, _, _ in (*parts, *stored)]
        self._names = [name for _, name, _ in (*parts, *stored)]
        self._found: list[Any] = [found for _, _, found in (*parts, *stored)]
        # Samples of packed weights are what a model is known by: no forward reads them.
        samples = {id(m._buffers.get(SAMPLE)) for m in modules if isinstance(m, PackedLinear)}
        self._tensors = [x for _, _, x in stored if x is not None and id(x) not in samples]
        self._counted = [x for x in self._tensors if not x.is_inference()]
        self._addresses = [x.data_ptr() for x in self._tensors]
        self._versions = [x._version for x in self._counted]

    def plain(self) -> bool:
        """Whether no module has hooks or a forward of its own."""
        return not any(self._hooks) and not any("forward" in own for own in self._own)

    def same(self) -> bool:
        """Whether nothing has changed since, and the modules are plain."""
        # Lists that are made and compared as wholes, or by the extension: it is asked for each token.
        if not self._unchanged():
            return False
        if [x.data_ptr() for x in self._tensors] != self._addresses:
            return False
        return [x._version for x in self._counted] == self._versions

    def _unchanged(self) -> bool:
        """Whether modules have the parts that they had, and are plain."""
        native = extension()
        if native is not None:
            return native.unchanged(self._stores, self._names, self._found, self._hooks, self._own, "forward")
        found = [store.get(name) for store, name in zip(self._stores, self._names, strict=True)]
        return all(map(is_, found, self._found)) and self.plain()


class Switch:
    """The program of one decoder, made at the first token that it could run, and made anew when the decoder changed."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why there is none."""
        self._program: Program | Graphs | None = None
        self._watch: Watch | None = None

    @property
    def made(self) -> Program | None:
        """The list as it was last made, on a CPU."""
        return self._program if isinstance(self._program, Program) else None

    def adopt(self, watch: Watch, program: Program | None, reason: str | None) -> None:
        """Take the program that was kept of the decoder as `watch` knows it, or why it has none."""
        self._program = program
        self.reason = reason
        self._watch = watch

    def program(self, model: Recording) -> TokenProgram | None:
        """The program, if the decoder has one."""
        if self._watch is None or not self._watch.same():
            watch = Watch(model.decoder)
            self._program, self.reason = _made(watch, model)
            # Last, so that an interrupt meanwhile leaves it to be made again.
            self._watch = watch
        if isinstance(self._program, Graphs):
            return GraphProgram(self._program, model)
        return self._program


def _made(watch: Watch, model: Recording) -> tuple[Program | Graphs | None, str | None]:
    """The program, or why there is none; a model that works by its modules is never refused for want of one."""
    if not watch.plain():
        return None, "its modules have hooks or forwards of their own"
    if watch.other is not None:
        return None, f"{watch.other} may compute otherwise at any time"
    try:
        if next(model.decoder.parameters()).device.type == "cpu" and not interpreted():
            return make_program(model), None
        return make_graphs(model), None
    except NotRecorded as error:
        return None, str(error)
    except Exception as error:
        logger.exception("a decoder could not be recorded; it runs by its modules")
        return None, one_line(error)


_SWITCHES: WeakKeyDictionary[nn.Module, Switch] = WeakKeyDictionary()


def switch_of(decoder: nn.Module) -> Switch:
    """The switch of a decoder, which lasts as long as it."""
    found = _SWITCHES.get(decoder)
    return _SWITCHES.setdefault(decoder, Switch()) if found is None else found


def why_not(decoder: nn.Module, unpackable: str | None) -> str | None:
    """Why a decoder that was attached is not run from a program; None where it is.

    `unpackable`: why its streams cannot be packed, which stands against a program too.
    """
    if unpackable is not None:
        return unpackable
    if not _runs_on(next(decoder.parameters()).device):
        return "Triton is not installed, or the model is neither on a CPU nor on a GPU"
    return switch_of(decoder).reason


def runs_from_list(steps: Sequence[ForwardPlan], given: dict[str, Any]) -> bool:
    """Whether a forward is one that a program answers: few tokens of each stream, on a GPU one; without gradients."""
    tokens = sum(step.tokens for step in steps)
    if torch.is_grad_enabled() or tokens > ROWS:
        return False
    for step in steps:
        if step.rows != 1 or step.planes is not None or step.dtype not in TOLERANCE:
            return False
    for name, value in given.items():
        if value is not None and name not in _GIVEN:
            return False
    ids = given.get("input_ids")
    if ids is None or not _runs_on(ids.device) or torch.is_autocast_enabled(ids.device.type):
        return False
    if tokens > len(steps) and (ids.device.type != "cpu" or interpreted()):
        return False
    return given.get("return_dict") is not False and given.get("use_cache") is not False


def _runs_on(device: torch.device) -> bool:
    return device.type == "cpu" or runs_kernels(device)
