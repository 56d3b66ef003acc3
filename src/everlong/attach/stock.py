"""The parts of a stock transformers model that attaching needs, and where they are found."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The module whose forward takes tokens, positions and the cache of the text decoder."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or not accepts(decoder, "inputs_embeds"):
        return model.base_model
    return decoder


def text_config(model: PreTrainedModel) -> Any:
    """The configuration of the text decoder."""
    return model.config.get_text_config(decoder=True)


def signature_of(module: nn.Module) -> inspect.Signature:
    """The parameters of a module's forward as its class declares them; what replaces it on the instance may not."""
    return inspect.signature(type(module).forward.__get__(module))


def accepts(module: nn.Module, name: str) -> bool:
    """Whether the module's forward has a parameter of this name."""
    return name in signature_of(module).parameters


def device_of(model: PreTrainedModel) -> torch.device:
    """Where inputs go: to the model, or where accelerate brings its weights when they are offloaded."""
    return torch.device("cpu") if model.device.type == "meta" else model.device


def configs_of(model: nn.Module) -> list[Any]:
    """Every distinct config object that a submodule reads its attention implementation from."""
    found = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [c for c in found.values() if hasattr(c, "_attn_implementation")]


def attention_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states [B, T, W] among the arguments of an attention module's forward."""
    return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Submodules that stand for one layer of attention: they know their layer's index and project keys."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "layer_idx", None), int) and any(True for _ in module.children()):
            yield name, module
