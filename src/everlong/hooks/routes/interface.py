"""Models that call transformers' attention interface: our function is registered there, with its mask function."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from everlong.errors import CapabilityError
from everlong.hooks.current_step import RunningStep, needs_no_mask, running_step
from everlong.hooks.routes.base import AttentionHook

NAME = "everlong"


class Interface(AttentionHook):
    """The model looks its attention function up by `config._attn_implementation`."""

    title = "the attention function"
    implementation = NAME
    packs = True

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        for config in self.configs:
            self.inside(config._attn_implementation)

    def inside(self, stock: str | None) -> str:
        """A name that tells what to do in a forward that another thread began before the model was attached.

        Transformers compares names and looks for parts of them, so the stock one is in there as digits.
        """
        name = f"{NAME}-{(stock or 'eager').encode().hex()}"
        if name not in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionInterface.register(name, partial(_attention, stock or "eager"))
            AttentionMaskInterface.register(name, partial(_mask, stock or "eager"))
        return name

    @classmethod
    def fits(cls, decoder: nn.Module, modules: list[nn.Module]) -> bool:
        """Whether an attention module's code refers to the table of attention functions."""
        return any("ALL_ATTENTION_FUNCTIONS" in inspect.unwrap(type(m).forward).__globals__ for m in modules)


def _attention(stock: str, module: Any, *args: Any, **kwargs: Any) -> Any:
    step = running_step()
    if step is not None:
        return _attend(step, module, *args, **kwargs)
    eager = inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS.get_interface(stock, eager)(module, *args, **kwargs)


def _mask(stock: str, *args: Any, **kwargs: Any) -> Any:
    """In a step nothing: what is visible is decided by intervals."""
    return None if needs_no_mask() else ALL_MASK_ATTENTION_FUNCTIONS[stock](*args, **kwargs)


def _attend(
    step: RunningStep,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a step: query [B, H, T, D] over columns [B, G, M, D] -> [B, T, H, E]."""
    if dropout or (module.training and torch.is_grad_enabled()):
        raise CapabilityError("StreamCache is for inference: call model.eval(), or train without it")
    layer = module.layer_idx
    if layer not in step.plans and (writer := step.layer_that_returned(key)) is not None:
        layer = writer  # a module that several layers share
    step.check_call(layer, sliding_window, kwargs | {"attention_mask": attention_mask})
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return step.attend(layer, query, key, value, scale, softcap, s_aux).contiguous(), None


def no_mask(*args: Any, **kwargs: Any) -> None:
    """Nothing: what is visible is decided by intervals."""
