"""One reading of a question that leaves no trace: it sees sinks and window, and ends at the deepest layer it needs.

H query heads, D head dim, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LONGEST = 512
"""Tokens of a question that are looked at, at most: its last ones."""


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of a layer, [H, T, D], at distance window - 1 from raw keys; `scale` and `softcap` as the model's."""

    q: Float[Tensor, "H T D"]
    scale: float
    softcap: float | None


class ScoutDone(Exception):
    """No error: the scout has all queries, and the rest of the forward is not needed."""


class Scout:
    """Takes the queries of `layers`, while a forward runs that will be abandoned."""

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = frozenset(layers)
        self.found: dict[int, Queries] = {}

    def take(self, layer: int, q: Float[Tensor, "1 H T D"], scale: float, softcap: float | None) -> None:
        """Keep the queries of a layer, if they are wanted; ScoutDone after the last one."""
        if layer in self.layers:
            self.found[layer] = Queries(q[0].detach().to("cpu", torch.float32, copy=True), scale, softcap)
        if len(self.found) == len(self.layers):
            raise ScoutDone
