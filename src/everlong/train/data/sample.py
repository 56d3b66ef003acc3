"""What a model is trained on: the tokens of a row, how much each counts, and how rows become a batch.

Letters: B rows, T tokens of a row (of the longest one in a batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from everlong.ops.segments import NONE

PADDING = {"ids": 0, "loss_weight": 0.0, "write_weight": 0.0, "document": NONE}
"""What stands behind the end of a row that is shorter than the longest one."""


@dataclass(frozen=True, eq=False)
class Example:
    """One row of tokens."""

    ids: Int64[np.ndarray, " T"]
    loss_weight: Float32[np.ndarray, " T"]
    """Of the loss for predicting ids[t] from what came before; 0 at the first token of each document."""
    write_weight: Float32[np.ndarray, " T"]
    """By how much the memory's update for a token is multiplied; constant within a segment."""
    document: Int64[np.ndarray, " T"]
    """Number of the document that a token belongs to, 0 and rising; attention, memory and loss end with it."""
    answers: tuple[tuple[int, int], ...] = ()
    """Where each answer stands, from and up to but without."""

    @property
    def answer(self) -> tuple[int, int]:
        """Where the last answer stands; (0, 0) where nothing is asked."""
        return self.answers[-1] if self.answers else (0, 0)

    def __len__(self) -> int:
        return len(self.ids)


def collate(samples: Sequence[Example]) -> dict[str, Tensor]:
    """ids, loss_weight, write_weight and document of the samples, each [B, T], padded on the right.

    Padding has document NONE (-1), both weights 0 and id 0: only the document tells it from a token.
    """
    T = max(map(len, samples))
    return {
        name: torch.from_numpy(np.stack([_padded(getattr(sample, name), T, padding) for sample in samples]))
        for name, padding in PADDING.items()
    }


def _padded(values: np.ndarray, length: int, padding: int | float) -> np.ndarray:
    """The values with `padding` behind them."""
    return np.pad(values, (0, length - len(values)), constant_values=padding)
