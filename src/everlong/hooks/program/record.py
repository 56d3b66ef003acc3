"""What a decoder computes for one token, operation by operation, written down while it runs.

No family is known here: torch shows each operation with its tensors (`TorchDispatchMode`); what goes into the cache
and our attention are written down as one operation each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from everlong.cache.step import ForwardPlan
from everlong.models.packed_linear import PackedLinear

LINEAR = "everlong.linear"
ATTENTION = "everlong.attention"


class NotRecorded(Exception):
    """Why a decoder's forward cannot be run from a list; the message says it in words."""


@dataclass(frozen=True, eq=False)
class Operation:
    """`name` over `args`, tensors among them, gave `out`; `call` does it in torch."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    call: Callable[..., Any] | None = None


class AttentionSettings(NamedTuple):
    """What a layer's attention is asked with, besides tensors of the token."""

    layer: int
    scale: float
    softcap: float | None
    s_aux: Tensor | None


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One layer's attention: its queries, and the keys and values that it put into the cache before."""

    q: Tensor
    k: Tensor
    v: Tensor
    settings: AttentionSettings


class OperationRecorder(TorchDispatchMode):
    """Writes down what runs inside, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation] = []
        self._quiet = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._quiet:
            self.found.append(Operation(str(func), args, kwargs, out, func))
        return out

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What runs inside is not written down."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    @contextmanager
    def of(self, decoder: nn.Module) -> Iterator[None]:
        """Write down what `decoder` does inside; layers with packed weights, which torch does not see, are one each."""
        layers = [m for m in decoder.modules() if isinstance(m, PackedLinear)]
        for module in layers:
            vars(module)["forward"] = self._packed(module)
        try:
            with self:
                yield
        finally:
            for module in layers:
                vars(module).pop("forward", None)

    def _packed(self, module: PackedLinear) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            with self.quiet():
                out = type(module).forward(module, x)
            self.found.append(Operation(LINEAR, (x, module), {}, out))
            return out

        return forward


class RecordedPlan(ForwardPlan):
    """The step `plan`, whose writes and attentions a recorder is told."""

    def __init__(self, plan: ForwardPlan, recorder: OperationRecorder) -> None:
        vars(self).update(vars(plan))
        self._recorder = recorder
        self._written: dict[int, tuple[Tensor, Tensor]] = {}
        self._columns: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """As the plan does."""
        with self._recorder.quiet():
            self._columns[layer] = super().write(k, v, layer)
        self._written[layer] = k, v
        return self._columns[layer]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> Tensor:
        """As the plan does; NotRecorded where a layer attends to other keys than those that it just cached."""
        columns = self._columns.get(layer)
        if columns is None or columns[0] is not k or columns[1] is not v:
            raise NotRecorded(f"layer {layer} attends to other keys than those that it caches")
        with self._recorder.quiet():
            out = super().attend(layer, q, k, v, scale, softcap, s_aux).contiguous()
        call = AttentionCall(q, *self._written[layer], AttentionSettings(layer, scale, softcap, s_aux))
        self._recorder.found.append(Operation(ATTENTION, (call,), {}, out))
        return out
