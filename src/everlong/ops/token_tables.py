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


@dataclass(eq=False)
class TokenTables:
    """One token of one stream: of each layer its call, the ranges it attends to, and what is moved behind it."""

    calls: Words
    """[L, CALL_WORDS]"""
    ranges: Words
    """[L, R, RANGE_WORDS]; a range of no columns is left out"""
    moves: Words
    """[L, M, MOVE_WORDS]; of no heads: nothing is moved"""
    kept: list[Tensor]
    """What lives as long as the tables."""

    @classmethod
    def empty(cls, layers: int, ranges: int, moves: int = 0) -> TokenTables:
        """Tables of zeros, to be filled in."""
        calls = np.zeros((layers, CALL_WORDS), dtype=np.int64)
        found = np.zeros((layers, ranges, RANGE_WORDS), dtype=np.int64)
        moved = np.zeros((layers, moves, MOVE_WORDS), dtype=np.int64)
        return cls(calls, found, moved, [])

    def write_to(self, at: Words | slice, pairs: Sequence[tuple[Tensor, Tensor]], column: int) -> None:
        """Let the layers `at` put their new token into this column of their keys and values [1, G, M, D]."""
        self.calls[at, 0] = 1
        for n in range(2):
            self.calls[at, 1 + n], self.calls[at, 3 + n] = columns([pair[n] for pair in pairs], column)

    def attend_to(
        self,
        at: Words | slice,
        r: int,
        pairs: Sequence[tuple[Tensor, Tensor]],
        first: int,
        n: int,
        turn: Float[Tensor, "D D"] | None = None,
        runs: int = 1,
    ) -> None:
        """Let range `r` of the layers `at` be `n` columns from `first` on, met by a query turned by `turn`."""
        self.ranges[at, r, 0] = self._kept(turn)
        for which in range(2):
            found = columns([pair[which] for pair in pairs], first)
            self.ranges[at, r, 1 + which], self.ranges[at, r, 5 + which] = found
        self.ranges[at, r, 3] = n
        self.ranges[at, r, 4] = runs

    def move(
        self,
        at: Words | slice,
        m: int,
        source: tuple[Words, Words] | None,
        target: tuple[Words, Words],
        heads: int,
        turn: Float[Tensor, "D D"] | None = None,
    ) -> None:
        """Let move `m` of the layers `at` bring `heads` heads, turned, from `source` (None: the query) to `target`.

        Both are addresses and strides, as `columns` gives them.
        """
        if source is not None:
            self.moves[at, m, 0], self.moves[at, m, 1] = source
        self.moves[at, m, 2] = self._kept(turn)
        self.moves[at, m, 3], self.moves[at, m, 4] = target
        self.moves[at, m, 5] = heads

    def _kept(self, turn: Tensor | None) -> int:
        if turn is None:
            return 0
        self.kept.append(turn)
        return turn.data_ptr()


def columns(tensors: Sequence[Tensor], column: int | Words) -> tuple[Words, Words]:
    """Addresses of a column (the same, or each its own) of tensors [1, G, M, D], and strides from head to head."""
    step = tensors[0].stride(2) * tensors[0].element_size()
    found = np.array([(x.data_ptr(), x.stride(1)) for x in tensors], dtype=np.int64)
    return found[:, 0] + column * step, found[:, 1]
