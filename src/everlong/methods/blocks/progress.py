"""How far a layer of a block memory has come, and what its tensors look like.

Letters: H query heads, G kv heads, D, E head dims of keys and values, K chosen blocks, P pending columns, C choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from everlong.models.ranks import Ranks
from everlong.ops.spans import Ints


@dataclass(frozen=True, eq=False)
class Shape:
    """What a layer's tensors look like."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device
    digests: torch.dtype = torch.bfloat16
    ranks: Ranks | None = None

    def empty(self, *sizes: int, dtype: torch.dtype) -> Tensor:
        """A tensor on the layer's device that may be written outside of inference mode."""
        with torch.inference_mode(False):
            return torch.empty(*sizes, dtype=dtype, device=self.device)

    def pair(self, columns: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, G, columns, dim]; zeros, because an unused slot is multiplied by a weight of 0."""
        k, v = (self.empty(1, self.kv_heads, columns, dim, dtype=self.dtype) for dim in (self.key_dim, self.value_dim))
        return k.zero_(), v.zero_()


class Tail(NamedTuple):
    """Pending tokens: raw keys and values [1, G, P, D], and the mass that each got [H, P] (with bounds [0, P])."""

    k: Tensor
    v: Tensor
    mass: Tensor


@dataclass(frozen=True, eq=False)
class LayerProgress:
    """How far a layer has come; replaced as a whole.

    Tokens below `held` have left the window; those below `weighed` have all the mass that they will get. `pending` is
    the first pending token, in column `at` of `tail`. `chosen` [C, n] are the blocks of the present cell, `slots`
    [C, K] which block lies where (-1: none), placed in the frame that begins at `base`. `mass` [1, H, m] belongs to
    the newest m tokens; `queries` [H, n, D] are the newest queries, turned to the memory's distance.
    """

    tail: Tail
    pending: int
    at: int = 0
    held: int = 0
    weighed: int = 0
    chosen: Ints | None = None
    slots: Ints | None = None
    base: int = 0
    mass: Tensor | None = None
    queries: Tensor | None = None

    @property
    def pending_tokens(self) -> int:
        """Held tokens that are in no block yet, sinks apart."""
        return max(0, self.held - self.pending)
