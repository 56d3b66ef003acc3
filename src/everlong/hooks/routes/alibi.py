"""Models that add slope x distance to their scores and multiply by hand (MPT, BLOOM): ALiBi, arXiv 2108.12409.

Their softmax stays their own; what they may see comes through the mask, and the distances, which must be places in
the cache and not columns, through their builder of biases (MPT) or through the mask too (BLOOM).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface

from everlong.cache.step import ForwardPlan
from everlong.hooks.current_step import active_plan
from everlong.hooks.routes.base import AttentionHook
from everlong.models.internals import device_of

NAME = "everlong_alibi"
BUILDERS = ("build_mpt_alibi_tensor", "build_alibi_tensor")


class AlibiMask(AttentionHook):
    """Biases [H, T, M] replace the model's; every step counts as one call of every layer that writes."""

    title = "another hook: its mask and its builder of ALiBi biases"
    implementation = NAME
    per_row_padding = False

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__(decoder)
        AttentionMaskInterface.register(NAME, _mask)
        self.biased = hasattr(decoder, BUILDERS[0])
        stock: Any = decoder
        if self.biased:
            table = stock.build_mpt_alibi_tensor(stock.num_heads, 2)
        else:
            table = stock.build_alibi_tensor(torch.ones(1, 2, dtype=torch.long), stock.num_heads, torch.float32)
        self.slopes = (table[:, 0, 1] - table[:, 0, 0]).float()

    @classmethod
    def fits(cls, decoder: nn.Module, modules: list[nn.Module]) -> bool:
        """Whether the decoder has a method that builds ALiBi biases."""
        return any(hasattr(decoder, name) for name in BUILDERS)

    def attention_mask(self, step: ForwardPlan) -> Tensor | None:
        """BLOOM asks its builder for biases only if it is given a mask."""
        device = device_of(self.decoder)
        return None if self.biased else torch.ones(1, step.columns(step.only_lane()), dtype=torch.long, device=device)

    @contextmanager
    def redirected(self, step: ForwardPlan) -> Iterator[None]:
        """Put our builder on the instance."""
        step.slopes = None if self.biased else self.slopes
        self.replace(self.decoder, BUILDERS[not self.biased], self._biases if self.biased else self._none)
        yield

    def _biases(self, num_heads: int, sequence_length: int, alibi_bias_max: int = 8, device: Any = None) -> Tensor:
        return active_plan().alibi(self.slopes.to(device))

    def _none(self, attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        step = active_plan()
        return torch.zeros(step.rows * num_heads, 1, attention_mask.shape[1], dtype=dtype, device=attention_mask.device)


def _mask(*args: Any, dtype: torch.dtype = torch.float32, device: Any = "cpu", **kwargs: Any) -> Tensor:
    """Float mask [1, 1, T, M] (with ALiBi: [1, H, T, M]): the least number where a key is hidden."""
    step = active_plan()
    for index in step.plans:
        step.calls[index] = step.calls.get(index, 0) + 1
    bias = torch.zeros(1, 1, 1, device=device) if step.slopes is None else step.alibi(step.slopes.to(device))
    return torch.where(step.hidden().to(device), torch.finfo(dtype).min, bias.to(dtype))[None]
