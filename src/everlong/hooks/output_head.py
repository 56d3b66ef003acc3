"""The output layer over few tokens, by the extension: for a large vocabulary torch takes twice the time."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from everlong.hooks.replacement import Replacement
from everlong.ops.packed import plain_linear

MOST_TOKENS = {torch.float32: 16, torch.bfloat16: 8}
"""Above so many torch is as fast (benchmarks/linears.py)."""


class OutputHead:
    """Stands in for the forward of a plain linear output layer while anything is attached to its model."""

    def __init__(self, head: nn.Linear) -> None:
        self._head = head
        self.replacement = Replacement(head, self._forward)

    @classmethod
    def of(cls, model: PreTrainedModel) -> OutputHead | None:
        """That of `model`; None where its output layer is another kind of module, or has a forward of its own."""
        head = model.get_output_embeddings()
        return cls(head) if type(head) is nn.Linear and head.forward == MethodType(nn.Linear.forward, head) else None

    def _forward(self, given: dict[str, Any]) -> Any:
        x = given["input"]
        weight = self._head.weight
        if x.dtype != weight.dtype or x.numel() > MOST_TOKENS.get(x.dtype, 0) * weight.shape[1]:
            return self.replacement.stock(**given)
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return self.replacement.stock(**given)
        return plain_linear(x, weight, self._head.bias)
