"""Working memory that is used again, layer by layer and step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Workspace:
    """Reusable working memory, so that a stream does not allocate and free large tensors at every layer."""

    _flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    def take(self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialised contiguous tensor of `shape`, valid until the next `take` of this name."""
        size = math.prod(shape)
        key = (name, dtype, like.device)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < size:
            flat = self._flat[key] = torch.empty(size, dtype=dtype, device=like.device)
        return flat[:size].view(*shape)
