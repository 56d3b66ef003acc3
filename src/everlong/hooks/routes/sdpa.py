"""Models that call torch's scaled_dot_product_attention themselves, right after the cache's update (Falcon)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from everlong.cache.step import ForwardPlan
from everlong.errors import UnsupportedLayerError
from everlong.hooks.routes.base import AttentionHook


class SdpaCall(AttentionHook):
    """Those calls are answered by us while a step runs."""

    title = "another hook: its calls of scaled_dot_product_attention"
    implementation = "sdpa"

    @classmethod
    def fits(cls, decoder: nn.Module, modules: list[nn.Module]) -> bool:
        """Whether the model says that it can use sdpa."""
        return bool(modules) and bool(getattr(decoder, "_supports_sdpa", False))

    def redirected(self, step: ForwardPlan) -> AbstractContextManager[Any]:
        """Answer the calls whose keys came from the cache."""
        return _Answering(step)


class _Answering(TorchFunctionMode):
    def __init__(self, step: ForwardPlan) -> None:
        super().__init__()
        self.step = step

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            answer = self._answer(*args, **kwargs)
            if answer is not None:
                return answer
        return func(*args, **kwargs)

    def _answer(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        scale: float | None = None,
        **kwargs: Any,
    ) -> Tensor | None:
        layer = self.step.layer_that_returned(key)
        if layer is None:
            return None
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            raise UnsupportedLayerError(
                f"layer {layer}: adds a bias to its scores that comes from absolute positions (Falcon's ALiBi is "
                "rounded to bfloat16 there, so it is no function of distance and cannot be moved); use a model with "
                "rotary positions"
            )
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return self.step.attend(layer, query, key, value, scale, None, None).transpose(1, 2)
