"""GGUF files as models with packed weights: packed once, then kept in the cache beside the unpacked ones.

A folder has the configuration, the tokenizer, and in packed.safetensors the packed layers, in float32 whatever else the
model has. What is loaded from it never has the packed weights in full.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from everlong.errors import LoadError, one_line
from everlong.models import gguf
from everlong.models.packed_linear import PackedLinear, pack_model, packed_layers

logger = logging.getLogger(__name__)

_FILE = "packed.safetensors"
_FORMAT = 1


def from_gguf(path: Path, dtype: torch.dtype, weights: str) -> tuple[Any, Any]:
    """The model of a GGUF file with packed `weights`, the rest in `dtype`, and its tokenizer.

    LoadError for a file that transformers cannot read.
    """

    def convert(path: Path, folder: Path) -> None:
        model, tokenizer = gguf.read(path, torch.float32)
        pack_model(model, weights)
        write(model, tokenizer, folder)

    try:
        return read(gguf.converted(path, f" {weights} {_FORMAT}", convert), dtype)
    except OSError as error:
        logger.warning("%s cannot be cached in %s (%s): packed anew", path.name, gguf.cache_folder(), error)
    model, tokenizer = gguf.read(path, torch.float32)
    pack_model(model, weights)
    _cast(model, dtype)
    return model, tokenizer


def write(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a model with packed layers to a new folder."""
    from safetensors.torch import save_file

    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    forms = {name: layer.form for name, layer in packed_layers(model)}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / _FILE, {"format": "pt", "forms": json.dumps(forms)})


def read(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model that `write` wrote, all that is not packed in `dtype`, and its tokenizer."""
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.initialization import no_init_weights

    try:
        config = AutoConfig.from_pretrained(folder)
        with safe_open(folder / _FILE, "pt") as file:
            forms = json.loads(file.metadata()["forms"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        with no_init_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, form in forms.items():
            _replace(model, name, form, tensors)
        model.load_state_dict(tensors, assign=True)
        model.generation_config = GenerationConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise LoadError(f"{folder}: cannot be read ({one_line(error)}); delete it, it is made again") from error
    _cast(model, dtype)
    return model, tokenizer


def _replace(model: nn.Module, name: str, form: Any, tensors: dict[str, torch.Tensor]) -> None:
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    owner, _, own = name.rpartition(".")
    shape = (linear.out_features, linear.in_features)
    tensors[f"{name}.packed"] = tensors[f"{name}.packed"].clone()  # where torch aligns it, not where the file has it
    layer = PackedLinear(tensors[f"{name}.packed"], form, shape, linear.bias, tensors[f"{name}.sample"])
    setattr(model.get_submodule(owner), own, layer)


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Casts parameters and what is known of packed weights, but neither frequencies nor what the model keeps exact."""
    exact = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not any(part in name for part in exact):
            weight.data = weight.data.to(dtype)
    for _, layer in packed_layers(model):
        layer.sample = layer.sample.to(dtype)
    model.config.dtype = dtype
