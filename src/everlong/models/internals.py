"""The parts of a stock transformers model that attaching needs, and where they are found."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from everlong.errors import CapabilityError


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The module whose forward takes tokens, positions and the cache of the text decoder."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is None or not accepts(decoder, "inputs_embeds"):
        return model.base_model
    return decoder


def around_decoder(model: PreTrainedModel) -> nn.Module | None:
    """The module that calls the text decoder, in models that take more than text; None in others."""
    decoder = decoder_of(model)
    base = model.base_model
    nested = decoder is not base and any(m is decoder for m in base.modules())
    return base if nested and accepts(base, "past_key_values") else None


def text_config(model: PreTrainedModel) -> Any:
    """The configuration of the text decoder."""
    return model.config.get_text_config(decoder=True)


def signature_of(module: nn.Module) -> inspect.Signature:
    """The parameters of a module's forward as its class declares them; what replaces it on the instance may not."""
    return inspect.signature(type(module).forward.__get__(module))


@contextmanager
def plain(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, gradients and autocast while inside; every module's mode is as before afterwards."""
    training = [m for m in model.modules() if m.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad(), torch.autocast(device_of(model).type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def accepts(module: nn.Module, name: str) -> bool:
    """Whether the module's forward has a parameter of this name."""
    return name in signature_of(module).parameters


def device_of(model: Any) -> torch.device:
    """Where inputs go: to the embedding's weights, or where accelerate brings them when they are offloaded."""
    embedding: Any = model.get_input_embeddings()
    if not isinstance(getattr(embedding, "weight", None), Tensor):
        return next(model.parameters()).device
    if embedding.weight.device.type != "meta":
        return embedding.weight.device
    execution = getattr(getattr(embedding, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if execution is None else execution)


def lacks_weights(model: nn.Module) -> bool:
    """Whether weights of the model are on the meta device, and no hook of accelerate brings them."""
    hooked = any(hasattr(m, "_hf_hook") for m in model.modules())
    return not hooked and any(p.device.type == "meta" for p in model.parameters())


def configs_of(model: nn.Module) -> list[Any]:
    """Every distinct config object that a submodule reads its attention implementation from."""
    found = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [c for c in found.values() if hasattr(c, "_attn_implementation")]


def attention_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states [B, T, W] among the arguments of an attention module's forward."""
    return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


def with_added(output: Any, added: Tensor) -> Any:
    """What an attention module gave, its hidden states (the first of several) plus `added` [B, T, W].

    CapabilityError where these have other shapes.
    """
    hidden = output if isinstance(output, Tensor) else output[0]
    if hidden.shape != added.shape:
        raise CapabilityError(
            f"attention: gives hidden states {list(hidden.shape)}, and its memory adds {list(added.shape)}; use a "
            "method that adds to heads (delta with projections=none, infini)"
        )
    found = hidden + added.to(hidden.dtype)
    return found if isinstance(output, Tensor) else (found, *output[1:])


def check_all_added(left: Mapping[int, Tensor]) -> None:
    """CapabilityError where what a memory added to some layers' outputs was taken by no module."""
    if left:
        layers = ", ".join(map(str, sorted(left)))
        raise CapabilityError(
            f"layers {layers}: this model's attention is not a module whose output can be added to; use a method that "
            "adds to heads (delta with projections=none, infini)"
        )


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Submodules that stand for one layer of attention: they know their layer's index and project keys."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "layer_idx", None), int) and any(True for _ in module.children()):
            yield name, module
