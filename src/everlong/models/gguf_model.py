"""A model made straight from a GGUF file: each weight goes from its blocks to where and how the model has it.

Nothing is written, and no more than one tensor at a time is there in float32.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlong.errors import LoadError, one_line
from everlong.models.gguf_header import Header
from everlong.models.gguf_tensors import BlockRows, Tensors
from everlong.models.packed_linear import PackedLinear, Packing, packed_of_rows, packings

logger = logging.getLogger(__name__)

_TOLD = 3
_ROTATION = "rope_freqs.weight"


def make(path: Path, header: Header, config: Any, dtype: torch.dtype, weights: str) -> Any:
    """The model of a GGUF file with this configuration; packed layers as `weights` asks, all else in `dtype`.

    LoadError for a file that ends early or lacks weights, ConfigError for a model without layers to pack.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():  # memory that is not written to is not taken
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    _Filling(model, dtype, packings(model, weights), weights).fill(path, header)
    model.config.dtype = dtype
    return model.eval()


class _Filling:
    """A model whose weights are put in place one by one."""

    def __init__(self, model: Any, dtype: torch.dtype, packed: dict[str, Packing], weights: str) -> None:
        self._model = model
        self._dtype = dtype
        self._packed = packed
        self._weights = weights
        self._exact = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self._missing = {name for name, _ in model.named_parameters(remove_duplicate=False)}

    def fill(self, path: Path, header: Header) -> None:
        tensors = Tensors(path, header, self._model)
        for name, content in tensors:
            if name not in self._shapes:
                tensors.unused.append(name)
                continue
            self._check(path, name, content)
            self._put(name, content)
            for other in self._tied_to(name):
                self._put(other, content)
        if not self._model_is_packed_at_its_head():
            self._model.tie_weights()
            parameters = dict(self._model.named_parameters(remove_duplicate=False))
            put = {id(parameters[name]) for name in parameters.keys() - self._missing}
            self._missing = {name for name in self._missing if id(parameters.get(name)) not in put}
        _tell(path, self._missing, tensors.unused)

    def _check(self, path: Path, name: str, content: BlockRows | Tensor) -> None:
        known = self._shapes[name]
        if tuple(content.shape) != known:
            raise LoadError(
                f"{path}: {name} is {list(content.shape)} in this GGUF file, and {list(known)} in its model; "
                "it is of a variant that transformers does not read: give a transformers folder"
            )

    def _tied_to(self, name: str) -> list[str]:
        """The head, if it shares the embedding of this name and is packed: packed layers share nothing."""
        embedding, head = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        if not getattr(self._model.config, "tie_word_embeddings", False) or head is None:
            return []
        owner = self._model.get_submodule(name.rpartition(".")[0])
        if owner is not embedding:
            return []
        return [f"{found}.weight" for found in self._packed if self._model.get_submodule(found) is head]

    def _put(self, name: str, content: BlockRows | Tensor) -> None:
        owner, _, own = name.rpartition(".")
        self._missing.discard(name)
        module = self._model.get_submodule(owner)
        if own == "weight" and owner in self._packed:
            outer, _, last = owner.rpartition(".")
            setattr(self._model.get_submodule(outer), last, self._packed_layer(module, content, self._packed[owner]))
            return
        dtype = self._dtype if not any(part in name for part in self._exact) else torch.float32
        value = content.weights(dtype) if isinstance(content, BlockRows) else _own(content, dtype)
        if own in module._parameters:
            module._parameters[own] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[own] = value

    def _packed_layer(self, module: Any, content: BlockRows | Tensor, packing: Packing) -> PackedLinear:
        made = None
        if isinstance(content, BlockRows):
            made = packed_of_rows(module, content.data, content.kind, self._weights, packing)
        if made is None:
            full = content.weights(torch.float32) if isinstance(content, BlockRows) else content.float()
            module.weight = nn.Parameter(full, requires_grad=False)
            made = PackedLinear.of(module, self._weights, packing.is_head, packing.is_small)
        made.sample = made.sample.to(self._dtype)
        return made

    def _model_is_packed_at_its_head(self) -> bool:
        return isinstance(self._model.get_output_embeddings(), PackedLinear)


def _own(content: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype` and in memory of its own, not in the file's."""
    if not content.is_floating_point():
        return content.clone()
    return content.to(dtype, copy=True)


def _tell(path: Path, missing: set[str], unused: list[str]) -> None:
    if missing:
        first = ", ".join(sorted(missing)[:_TOLD])
        raise LoadError(
            f"{path}: {len(missing)} weights are not in this GGUF file ({one_line(first)}); it is of a variant that "
            "transformers does not read: give a transformers folder"
        )
    if _ROTATION in unused:
        logger.warning(
            "%s rotates with factors of its own (%s), which transformers does not read from GGUF: beyond some thousand "
            "tokens it is not as it was trained; a transformers folder of the model is",
            path.name,
            _ROTATION,
        )
    if others := [name for name in unused if name != _ROTATION]:
        logger.info("%s: not used, %d tensors (%s)", path.name, len(others), ", ".join(others[:_TOLD]))
