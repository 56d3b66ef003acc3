"""One piece of memory for all packed weights of a model, in the order in which a token reads them.

Kernels ask for weights some KiB before they need them, which at a layer's end are those of the next. In huge pages,
where the system gives them, a core also reads faster: the processor's own reading ahead ends at a page's end.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from everlong.models.packed_linear import packed_layers

_ALIGNED = 64
_BEHIND = 1 << 16
"""Bytes behind the last weights that kernels may ask for."""
_LEAST = 1 << 22
"""Weights of fewer bytes stay where they are: a core's own caches hold them."""


def gather(model: Any) -> None:
    """Move the packed weights of a model on a CPU, layer by layer, so that they are never there twice."""
    layers = [layer for _, layer in packed_layers(model) if layer.packed.device.type == "cpu"]
    total = sum(_rounded(layer.packed.nbytes) for layer in layers)
    if total < _LEAST:
        return
    room = _room(total + _BEHIND)
    at = 0
    for layer in layers:
        size = layer.packed.nbytes
        place = room[at : at + size].view(layer.packed.shape)
        layer.packed = place.copy_(layer.packed)
        at += _rounded(size)


def _rounded(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED


def _room(count: int) -> Tensor:
    """Bytes of zeros, in huge pages where there are such."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(count, dtype=torch.uint8)
    # Memory of this process alone: what others may share is in small pages.
    memory = mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)
