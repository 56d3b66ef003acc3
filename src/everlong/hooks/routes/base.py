"""What a route is: a redirection that lasts for one forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from everlong.cache.step import ForwardPlan
from everlong.errors import SelfCheckError
from everlong.hooks.current_step import RunningStep, unmasked
from everlong.models.internals import configs_of


class AttentionHook:
    """One way; `title` names it in the table of families, `implementation` is what the model's config says inside."""

    title: ClassVar[str]
    implementation: ClassVar[str]
    per_row_padding: ClassVar[bool] = True
    packs: ClassVar[bool] = False
    """Whether several streams may be packed into one row."""

    def __init__(self, decoder: nn.Module) -> None:
        self.decoder = decoder
        self.configs = configs_of(decoder)
        self._stock: list[str | None] | None = None
        self._inside: dict[str | None, str] = {}
        self._replaced: list[tuple[nn.Module, str, Any]] = []

    @classmethod
    def fits(cls, decoder: nn.Module, modules: list[nn.Module]) -> bool:
        """Whether a decoder with these attention modules can take this route."""
        raise NotImplementedError

    def attention_mask(self, step: ForwardPlan) -> Tensor | None:
        """The 2-D mask that the model's forward is given in place of the caller's."""
        return None

    @contextmanager
    def unmasked(self) -> Iterator[None]:
        """Let the model's own builders of masks make none while inside (a step may begin inside, and ends it)."""
        self.restore()
        try:
            self._name()
            with unmasked():
                yield
        finally:
            self.restore()

    @contextmanager
    def entered(self, step: RunningStep) -> Iterator[None]:
        """Redirect attention while inside."""
        self.restore()
        try:
            self._name()
            with self.redirected(step) if isinstance(step, ForwardPlan) else nullcontext():
                yield
        finally:
            self.restore()

    def _name(self) -> None:
        self._stock = [c._attn_implementation for c in self.configs]
        for config, stock in zip(self.configs, self._stock, strict=True):
            if stock not in self._inside:
                self._inside[stock] = self.inside(stock)
            config._attn_implementation = self._inside[stock]

    def inside(self, stock: str | None) -> str:
        """What a config says inside that says `stock` otherwise."""
        return self.implementation

    def restore(self) -> None:
        """Undo what `entered` changed, if an interrupt kept it from doing so; may be called at any time."""
        if self._stock is None:
            return
        while self._replaced:
            module, name, own = self._replaced.pop()
            if own is None:
                vars(module).pop(name, None)
            else:
                setattr(module, name, own)
        for config, name in zip(self.configs, self._stock, strict=True):
            config._attn_implementation = name
        self._stock = None

    def replace(self, module: nn.Module, name: str, value: Any) -> None:
        """Give an instance another method until `restore`, which puts back what the instance had of its own."""
        self._replaced.append((module, name, vars(module).get(name)))
        setattr(module, name, value)

    def redirected(self, step: ForwardPlan) -> AbstractContextManager[Any]:
        """What else is changed while inside."""
        return nullcontext()

    def check(self, step: RunningStep) -> None:
        """SelfCheckError unless attention ran once in each layer during `step`."""
        calls = {p.index: step.calls.get(p.index, 0) for p in step.plans.values()}
        if any(n != 1 for n in calls.values()):
            wrong = {i: n for i, n in calls.items() if n != 1}
            raise SelfCheckError(
                f"{type(self.decoder).__name__}: our attention must run once in each of {len(calls)} layers, but ran "
                f"(layer: times) {wrong}; the model cannot be attached"
            )
