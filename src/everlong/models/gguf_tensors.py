"""The tensors of a GGUF file under the names and in the order that a transformers model has them.

Which tensor is which, and what llama.cpp changed in it (rows of queries and keys in another order, norms with one
added, experts stacked), is transformers' knowledge: its table of names and its processors are asked, tensor by tensor.
Where a processor only reorders rows, rows of packed blocks are reordered.

R rows, W bytes of a row.
"""

from __future__ import annotations

import importlib
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from everlong.errors import LoadError
from everlong.models.gguf_header import Header, TensorPlace
from everlong.ops import gguf_blocks

_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""Kinds of tensors that are numbers and not blocks."""


_DEPTH = 2


@dataclass(frozen=True)
class BlockRows:
    """A matrix of the model as rows of blocks, in the model's order; `kind` is one of gguf_blocks."""

    data: UInt8[Tensor, "R W"]
    kind: int

    @property
    def shape(self) -> tuple[int, int]:
        """R and I."""
        of = gguf_blocks.KINDS[self.kind]
        return len(self.data), self.data.shape[1] // of.bytes * of.weights

    def weights(self, dtype: torch.dtype) -> Tensor:
        """The matrix [R, I]."""
        return gguf_blocks.weights(self.data, self.kind, dtype)


class Tensors:
    """What a file has for a model. `unused` names, after all were read, what the model has no place for."""

    def __init__(self, path: Path, header: Header, model: Any) -> None:
        theirs = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
        processor = theirs.TENSOR_PROCESSORS.get(header.architecture, theirs.TensorProcessor)
        self._processor = processor(config=model.config.to_dict())
        self._names = _names(model, self._processor)
        self._parts = Counter(self._names.values())
        self._path = path
        self._header = header
        with path.open("rb") as file:
            # private copies of pages that nobody writes to: torch wants to be able to
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = torch.frombuffer(self._pages, dtype=torch.uint8)
        self.unused: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, BlockRows | Tensor]]:
        """Names and contents; plain tensors are in the type that the file or the processor gives them.

        LoadError for a file that ends before its tensors do, or has a kind of blocks that the package gguf lacks.
        """
        made: dict[str, Tensor] = {}
        begun: Counter[str] = Counter()
        for place in self._header.tensors:
            self._drop_pages()
            raw = self._raw(place)
            rows = self._in_order(place, raw)
            if rows is not None:
                yield self._names[place.name], rows
                continue
            name, content = self._processed(place, raw, made)
            if name is not None:
                yield name, content
            else:
                begun[self._names.get(place.name.removesuffix(".weight"), self._names.get(place.name, ""))] += 1
            # a processor joins or splits experts into `made`: each is whole when all its parts were there
            for whole in [name for name in made if begun[name] >= self._parts.get(name, 0)]:
                yield whole, made.pop(whole)

    def _drop_pages(self) -> None:
        """Give back the memory of what was read; who looks again reads again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)

    def _raw(self, place: TensorPlace) -> UInt8[Tensor, " B"]:
        size = self._row_bytes(place) * prod(place.shape[:-1])
        raw = self._bytes[place.start : place.start + size]
        if len(raw) < size:
            raise LoadError(f"{self._path}: this GGUF file ends within its weights ({place.name}); download it again")
        return raw

    def _row_bytes(self, place: TensorPlace) -> int:
        import gguf

        try:
            weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(place.kind)]
        except (KeyError, ValueError):
            raise LoadError(
                f"{self._path}: {place.name} is of a type that the package gguf does not know (number {place.kind}); "
                "install a newer gguf, or take a file of another type"
            ) from None
        last = place.shape[-1] if place.shape else 1
        return last // weights * size

    def _in_order(self, place: TensorPlace, raw: Tensor) -> BlockRows | None:
        """The tensor as rows of blocks, if it is a matrix of blocks of which at most rows are reordered."""
        if place.kind not in gguf_blocks.KINDS or len(place.shape) != 2 or place.name not in self._names:
            return None
        rows = place.shape[0]
        numbers = np.arange(rows)[:, None]
        try:
            result = self._process(numbers, place.name, {})
        except (LoadError, ValueError):  # it wants whole rows, as BLOOM's does
            return None
        order = result.weights
        if result.name is None or order.shape != numbers.shape or order.dtype != numbers.dtype:
            return None
        data = raw.view(rows, -1)
        if np.array_equal(order, numbers):
            return BlockRows(data, place.kind)
        if not np.array_equal(np.sort(order, axis=0), numbers):
            return None
        return BlockRows(data[torch.from_numpy(order[:, 0].copy())], place.kind)

    def _processed(self, place: TensorPlace, raw: Tensor, made: dict[str, Tensor]) -> tuple[str | None, Any]:
        """The tensor as its processor changes it, under the model's name, or None if that is elsewhere or nowhere."""
        plain = _PLAIN.get(place.kind)
        if plain is not None:
            whole = raw.view(plain).view(place.shape).float()
        else:
            whole = self._unpacked(raw, place).view(place.shape)
        result = self._process(whole.numpy(), place.name, made)
        if result.name is None:
            return None, None
        if result.name not in self._names:
            self.unused.append(place.name)
            return None, None
        return self._names[result.name], torch.from_numpy(np.ascontiguousarray(result.weights))

    def _unpacked(self, raw: Tensor, place: TensorPlace) -> Tensor:
        import gguf

        rows = raw.view(prod(place.shape[:-1]), -1)
        if place.kind in gguf_blocks.KINDS:
            return gguf_blocks.weights(rows, place.kind)
        return torch.from_numpy(gguf.dequantize(rows.numpy(), gguf.GGMLQuantizationType(place.kind)))

    def _process(self, content: Any, name: str, made: dict[str, Tensor]) -> Any:
        return self._processor.process(
            weights=content, name=name, tensor_key_mapping=self._names, parsed_parameters={"tensors": made}
        )


def _names(model: Any, processor: Any) -> dict[str, str]:
    """Names of parameters by those of tensors.

    transformers makes its table of names anew for each module within modules (seconds); those that matter lie near the
    top. Where a parameter is left without a tensor, all modules are looked through.
    """
    theirs = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    found: dict[str, str] = theirs.get_gguf_hf_weights_map(_Near(model, _DEPTH), processor)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    wanted = {name for name, _ in model.named_parameters()} - set(tied)
    if wanted <= set(found.values()):
        return found
    return theirs.get_gguf_hf_weights_map(model, processor)


class _Near:
    """What transformers asks of a model for its names, down to a depth."""

    def __init__(self, module: Any, depth: int) -> None:
        self._module = module
        self._depth = depth
        self.config = getattr(module, "config", None)

    def state_dict(self) -> dict[str, Any]:
        return self._module.state_dict()

    def named_children(self) -> list[tuple[str, _Near]]:
        children = self._module.named_children() if self._depth else ()
        return [(name, _Near(child, self._depth - 1)) for name, child in children]


def is_read_here(header: Header) -> bool:
    """Whether the file's architecture is read by this module; those that transformers itself streams are not."""
    try:
        quick = importlib.import_module("transformers.integrations.gguf").is_gguf_arch_supported
        importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    except (ImportError, AttributeError):
        return False
    return not quick(header.architecture)
