"""Where the attention of one new token finds its keys, layer by layer, as tables that the extension reads.

With them a decoder's forward runs without Python between one layer and the next (native/token.h, whose structures the
rows of the tables are). Addresses are those of tensors that whoever makes a table keeps alive until it was used.

Letters: L layers, R ranges, M moves, G kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

Words = np.ndarray[Any, np.dtype[np.int64]]

RANGE_WORDS = 7
"""turn, keys, values, columns, runs, stride of keys, stride of values: `struct token_range`."""
MOVE_WORDS = 6
"""from, its stride, turn, to, its stride, heads: `struct token_move`."""
CALL_WORDS = 6
"""planned, to keys, to values, stride of keys, stride of values, shares: `struct token_call`."""
MOST_RANGES = 16
MOST_DIM = 512


class LayerColumns:
    """Where the keys and values [1, G, M, D] of some layers lie, which are alike but for M."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        keys = pairs[0][0]
        self.like = keys if keys.device.type == "cpu" else keys.new_empty(keys.shape[-1], device="cpu")
        """As the keys, on the host, where turns are made."""
        self._starts = np.array([(k.data_ptr(), v.data_ptr()) for k, v in pairs], dtype=np.int64)
        self.strides: Words = np.array([(k.stride(1), v.stride(1)) for k, v in pairs], dtype=np.int64)
        """[L, 2], from one kv head to the next, of keys and of values."""
        self._step = keys.stride(2) * keys.element_size()

    def at(self, column: int | Words) -> Words:
        """The addresses [L, 2] of keys and values in a column, or in that of each layer [L]."""
        return self._starts + np.reshape(column, (-1, 1)) * self._step


@dataclass(eq=False)
class TokenTables:
    """One token of one stream: of each layer its call, the ranges it attends to, and what is moved behind it."""

    calls: Words
    """[L, CALL_WORDS]"""
    ranges: Words
    """[L, R, RANGE_WORDS]; a range of no columns is left out"""
    moves: Words
    """[L, M, MOVE_WORDS]; of no heads: nothing is moved"""
    turns: list[Tensor]
    """The turns that the tables name; they live as long as the tables, as `shares` do."""
    shares: list[Tensor]

    @classmethod
    def empty(cls, layers: int, ranges: int, moves: int = 0) -> TokenTables:
        """Tables of zeros, to be filled in."""
        calls = np.zeros((layers, CALL_WORDS), dtype=np.int64)
        found = np.zeros((layers, ranges, RANGE_WORDS), dtype=np.int64)
        moved = np.zeros((layers, moves, MOVE_WORDS), dtype=np.int64)
        return cls(calls, found, moved, [], [])

    def write_to(self, at: Words, layers: LayerColumns, column: int) -> None:
        """Let the layers `at` put their new token into this column."""
        self.calls[at, 0] = 1
        self.calls[at, 1:3] = layers.at(column)
        self.calls[at, 3:5] = layers.strides

    def attend_to(
        self,
        at: Words,
        r: int,
        layers: LayerColumns,
        first: int,
        n: int,
        turn: Float[Tensor, "D D"] | None = None,
        runs: int = 1,
    ) -> None:
        """Let range `r` of the layers `at` be `n` columns from `first` on, met by a query turned by `turn`."""
        self.ranges[at, r, 0] = self._kept(turn)
        self.ranges[at, r, 1:3] = layers.at(first)
        self.ranges[at, r, 3:5] = n, runs
        self.ranges[at, r, 5:7] = layers.strides

    def move(
        self,
        at: Words,
        m: int,
        source: tuple[Words, Words] | None,
        target: tuple[Words, Words],
        heads: int,
        turn: Float[Tensor, "D D"] | None = None,
    ) -> None:
        """Let move `m` of the layers `at` bring `heads` heads, turned, from `source` (None: the query) to `target`.

        Both are addresses, and strides from one head to the next.
        """
        if source is not None:
            self.moves[at, m, 0], self.moves[at, m, 1] = source
        self.moves[at, m, 2] = self._kept(turn)
        self.moves[at, m, 3], self.moves[at, m, 4] = target
        self.moves[at, m, 5] = heads

    def _kept(self, turn: Tensor | None) -> int:
        if turn is None:
            return 0
        self.turns.append(turn)
        return turn.data_ptr()
