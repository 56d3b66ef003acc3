"""A recorded forward as a list: operations for the extension, attentions between them, room for their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from everlong.hooks.program.place import HostCall
from everlong.hooks.program.record import AttentionSettings

WORDS = 28
"""Of 8 bytes: `struct operation`."""
ROWS = 32
"""Tokens that are run at once, of one stream or of many."""
Words = np.ndarray[Any, np.dtype[np.int64]]


class Numbers(NamedTuple):
    """A tensor in the room of a row: from which number of its type on, and how it lies."""

    at: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def of(self, room: Tensor, row: int) -> Tensor:
        """The tensor of a row; `room` [rows, numbers]."""
        typed = room.view(self.dtype)
        return typed.as_strided(self.shape, self.strides, row * typed.shape[1] + self.at)

    def of_rows(self, room: Tensor, row: int, count: int) -> Tensor:
        """What attention is handed, [1, heads, 1, dim] of a row, of `count` rows: [1, heads, count, dim]."""
        typed = room.view(self.dtype)
        shape = (*self.shape[:2], count, self.shape[3])
        strides = (*self.strides[:2], typed.shape[1], self.strides[3])
        return typed.as_strided(shape, strides, row * typed.shape[1] + self.at)


class Segment(NamedTuple):
    """`count` operations from `first` on, then an attention (None: none) that is handed q, k and v."""

    first: int
    count: int
    call: AttentionSettings | None
    handed: tuple[Numbers, ...] = ()


@dataclass(eq=False)
class Lowered:
    """The list, its buffers, and all that must live as long as it."""

    words: Words
    segments: list[Segment]
    host: list[HostCall]
    uploads: dict[int, Numbers]
    """Where tensors of the host are copied to, by their place."""
    places: int
    out: Numbers
    """The last hidden state."""
    room: Tensor
    """[rows, numbers]: what the operations name is in the first row."""
    kept: list[Any]
