"""LoRA beside a memory (PEFT): a model's own weights stay as they are while low-rank updates of them are trained.

The updates lie inside the model's own linear layers, so that the model is trained, saved and resumed as any other, and
in the end they are added to the weights: what a run leaves needs no PEFT.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from everlong.errors import ConfigError, one_line


def add_lora(model: Any, options: Mapping[str, Any], seed: int) -> None:
    """Put untrained updates into `model`, which then computes what it did before; they alone have gradients.

    `options` are those of PEFT's LoraConfig. ConfigError if PEFT is not installed, or knows no such options.
    """
    peft = _peft()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(peft.LoraConfig(**options), model)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {one_line(error)}; see PEFT's LoraConfig") from None
    for name, x in model.named_parameters():
        x.requires_grad_("lora_" in name)


def merge_lora(model: Any) -> None:
    """Add the trained updates to the weights, and leave the model as it was built; nothing where there are none.

    Updates that are not finite raise ValueError.
    """
    if not hasattr(model, "peft_config"):
        return
    updated = _peft(".tuners.tuners_utils").BaseTunerLayer
    for name, layer in list(model.named_modules()):
        if isinstance(layer, updated):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def _peft(part: str = "") -> Any:
    """PEFT or a part of it, which is slow to import."""
    try:
        return importlib.import_module(f"peft{part}")
    except ImportError:
        raise ConfigError("lora: PEFT is not installed; pip install 'everlong[train]'") from None
