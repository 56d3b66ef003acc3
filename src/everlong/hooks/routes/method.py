"""Models whose attention is a method `_attn(query, key, value, attention_mask)` of each layer's module (GPT-J)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from everlong.cache.step import ForwardPlan
from everlong.hooks.current_step import running_step
from everlong.hooks.routes.base import AttentionHook
from everlong.models.internals import attention_modules


class MethodOverride(AttentionHook):
    """The instances' methods are replaced for the time of a step."""

    title = "another hook: its modules' _attn method"
    implementation = "eager"

    @classmethod
    def fits(cls, decoder: nn.Module, modules: list[Any]) -> bool:
        """Whether every attention module has that method, and a scale that divides the scores."""
        return bool(modules) and all(
            isinstance(getattr(m, "scale_attn", None), float)
            and hasattr(m, "_attn")
            and list(inspect.signature(m._attn).parameters)[:4] == ["query", "key", "value", "attention_mask"]
            for m in modules
        )

    @contextmanager
    def redirected(self, step: ForwardPlan) -> Iterator[None]:
        """Put our method on the instances."""
        modules: list[Any] = [m for _, m in attention_modules(self.decoder)]
        for module in modules:
            self.replace(module, "_attn", _method(step, module))
        yield


def _method(step: ForwardPlan, module: Any) -> Callable[..., tuple[Tensor, Any]]:
    def attn(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Any]:
        if running_step() is not step:  # a forward that another thread began before the model was attached
            return type(module)._attn(module, query, key, value, attention_mask)
        out = step.attend(module.layer_idx, query, key, value, 1 / module.scale_attn, None, None)
        return out.transpose(1, 2).to(value.dtype), None

    return attn
