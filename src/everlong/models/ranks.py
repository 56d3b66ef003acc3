"""The processes to which the heads of a model are shared out (tensor parallelism): each computes its own heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ranks:
    """A process group, and the device on which it exchanges tensors.

    What is summed over all heads of a layer has to be summed over the ranks. They take each step together, so that each
    call here is one that all of them make.
    """

    size: int
    group: Any
    device: torch.device

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks, on every one of them, in a new tensor where `x` is."""
        total = x.to(self.device, copy=True)
        dist.all_reduce(total, group=self.group)
        return total.to(x.device)

    def gather(self, mine: Any) -> list[Any]:
        """What each rank gave, in their order."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine, group=self.group)
        return found
