"""Attention over what a layer caches, not over what it makes of it (MLA: DeepSeek-V2, arXiv 2405.04434, section 2.1.2).

Where keys and values of each head are linear in one cached vector c, queries take over the keys' matrix and outputs the
values': q (A c) = (A' q) c, and the sum of p (B c) is B times the sum of p c.

Letters: B rows, H query heads, T queries, D, E dims of keys and values, R of what is cached, r of its part in values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Absorbed:
    """The matrices of a layer: of keys [H, D, R] and of values [H, E, r], where values are of the first r dims."""

    keys: Float[Tensor, "H D R"]
    values: Float[Tensor, "H E r"]

    def queries(self, q: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T R"]:
        """Queries that score cached vectors as `q` scores keys."""
        return q @ self.keys

    def outputs(self, out: Float[Tensor, "B T H r"]) -> Float[Tensor, "B T H E"]:
        """The outputs of values, from those of cached vectors."""
        return torch.einsum("bthr,her->bthe", out, self.values)
