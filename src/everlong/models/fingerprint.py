"""What tells one model and tokenizer from another: digests that a saved session carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from everlong.models.adapters import adapters
from everlong.models.packed_linear import packed_layers
from everlong.models.sharding import check_not_sharded

_SAMPLES = 256
"""Values of each parameter that enter the digest, at equal strides."""
_VOLATILE = ("transformers_version", "dtype", "torch_dtype", "use_cache", "attn_implementation", "architectures")


def fingerprint(model: Any, tokenizer: Any) -> dict[str, str | None]:
    """Digests by name: the model's configuration, its weights, and the tokenizer (None without one)."""
    return {
        "configuration": configuration_digest(model),
        "weights": weights_digest(model),
        "tokenizer": None if tokenizer is None else tokenizer_digest(tokenizer),
    }


def configuration_digest(model: Any) -> str:
    """A digest of the model's configuration, without what changes when it is loaded in another way."""
    return _digest(_lasting(model.config.to_dict()))


@torch.no_grad()
def weights_digest(model: Any, without: str | None = None) -> str:
    """A digest of names, types, shapes and strided samples of all parameters but those of the submodule `without`.

    Packed weights count as they are packed, quantised ones as they are quantised; which adapters are active counts too.
    """
    found = hashlib.sha256()
    for name, weight in _weights(model, without):
        found.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        found.update(sample(weight))
    for name, layer in packed_layers(model):
        found.update(f"{name}.packed {layer.form} {tuple(layer.packed.shape)}".encode())
        found.update(sample(layer.packed))
    for line in adapters(model):
        found.update(line.encode())
    return found.hexdigest()


@torch.no_grad()
def checkpoint_digest(model: Any, without: str | None = None) -> str:
    """A digest of configuration and weights that is the same in whichever type or packing they were loaded.

    Samples are compared as bfloat16, so a checkpoint in bfloat16 and its float32 or bfloat16 load agree; parameters of
    the submodule `without` do not count, nor does a head that shares its weights with the embedding.
    """
    found = hashlib.sha256(configuration_digest(model).encode())
    weights = {name: (tuple(weight.shape), weight) for name, weight in _weights(model, without)}
    tied = getattr(model.config, "tie_word_embeddings", False)
    head = model.get_output_embeddings() if tied else None
    for name, layer in packed_layers(model):
        if layer is not head:
            weights[f"{name}.weight"] = (layer.out_features, layer.in_features), layer.sample
    for name, (shape, weight) in sorted(weights.items()):
        found.update(f"{name} {shape}".encode())
        found.update(sample(weight, torch.bfloat16))
    for line in adapters(model):
        found.update(line.encode())
    return found.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """A digest of all that decides which ids a text gets (truncation and padding, which come first, do not)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest([type(tokenizer).__name__, tokenizer.get_vocab()])
    _, _, lasting = backend.to_str().partition('"added_tokens"')
    return hashlib.sha256(lasting.encode()).hexdigest()


def _weights(model: Any, without: str | None) -> Iterator[tuple[str, Tensor]]:
    """Parameters by name, in order, without those of the submodule `without`; accelerate brings offloaded ones.

    Of a parameter that holds several tensors (torchao) each is one; so are buffers of a checkpoint that was quantised,
    since some libraries keep weights there.

    CapabilityError for a model that is sharded over ranks.
    """
    check_not_sharded(
        model,
        "fingerprint",
        "none of which can tell which model it is: sessions over it cannot be kept, saved or loaded, and what belongs "
        "to its weights (a trained memory, retrieval heads) is not found; load it whole",
    )
    held = dict(model.named_parameters())
    if getattr(model.config, "quantization_config", None) is not None:
        held |= dict(model.named_buffers())
    for name, weight in sorted(held.items()):
        if without in name.split("."):
            continue
        if weight.device.type != "meta":
            yield from _held_in(name, weight)
            continue
        from accelerate.utils import align_module_device

        module, _, own = name.rpartition(".")
        owner = model.get_submodule(module)
        with align_module_device(owner, torch.device("cpu")):
            yield name, getattr(owner, own).detach()


def _held_in(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a parameter holds: itself, or those that a class of another package wraps."""
    if not is_traceable_wrapper_subclass(weight):
        yield name, weight.detach()
        return
    inner, _ = weight.__tensor_flatten__()
    for own in inner:
        yield from _held_in(f"{name}.{own}", getattr(weight, own))


def sample(weight: Tensor, dtype: torch.dtype | None = None) -> bytes:
    """The bytes of values at equal strides, as they are or as `dtype`."""
    flat = weight.reshape(-1)
    picked = flat[:: max(1, flat.numel() // _SAMPLES)].to(dtype or flat.dtype).contiguous()
    return picked.view(torch.uint8).cpu().numpy().tobytes()


def _lasting(config: Any) -> Any:
    """The configuration without what changes when the same model is loaded in another way."""
    if not isinstance(config, dict):
        return config
    kept = {name: _lasting(value) for name, value in config.items() if not str(name).startswith("_")}
    return {name: value for name, value in kept.items() if name not in _VOLATILE}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
