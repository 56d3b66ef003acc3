"""Models that call transformers' attention interface: our function is registered there, with its mask function."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from everlong.attach.active import active_step
from everlong.attach.routes.base import Route
from everlong.errors import CapabilityError

NAME = "everlong"


class Interface(Route):
    """The model looks its attention function up by `config._attn_implementation`."""

    title = "the attention function"
    implementation = NAME

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, no_mask)

    @classmethod
    def fits(cls, decoder: nn.Module, modules: list[nn.Module]) -> bool:
        """Whether an attention module's code refers to the table of attention functions."""
        return any("ALL_ATTENTION_FUNCTIONS" in inspect.unwrap(type(m).forward).__globals__ for m in modules)


def attention(
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
    """Attention of the running step: query [B, H, T, D] over columns [B, G, M, D] -> [B, T, H, E]."""
    step = active_step()
    if dropout or (module.training and torch.is_grad_enabled()):
        raise CapabilityError("StreamCache is for inference: call model.eval(), or train without it")
    step.check_call(module.layer_idx, sliding_window, kwargs | {"attention_mask": attention_mask})
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return step.attend(module.layer_idx, query, key, value, scale, softcap, s_aux).contiguous(), None


def no_mask(*args: Any, **kwargs: Any) -> None:
    """Nothing: what is visible is decided by intervals."""
