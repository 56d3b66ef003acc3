"""Attentions of one new token of some streams by tables on the GPU, which stay in place so that a graph can hold them.

Letters: L layers, N streams (rows), H query heads, G kv heads, D head dim, R ranges, M moves, T pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.ops.token_tables import CALL_WORDS, MOVE_WORDS, RANGE_WORDS, TokenTables, Words

PIECES = 64
"""T: into so many pieces, for each kv head, the columns that a token attends to are cut."""
LEAST_PIECE = 64
BLOCK = 64
HEADER_WORDS = 2
"""Columns of a piece, and none: records stay on addresses that 16 divides."""
MOST_DIM = 256
MOST_TURNS = 16
"""Different ones of a stream and token."""
_TURN_RANGE = slice(0, None, RANGE_WORDS)
_TURN_MOVE = slice(2, None, MOVE_WORDS)


class DeviceTables:
    """Room on a GPU for the tables of `rows` streams, which `upload` fills before a token is run."""

    def __init__(self, layers: int, rows: int, ranges: int, moves: int, dim: int, device: torch.device) -> None:
        words = CALL_WORDS + ranges * RANGE_WORDS + moves * MOVE_WORDS
        self.layers = layers
        self.rows = rows
        self.ranges = ranges
        self.moves = moves
        self.record = words + words % 2
        self._dim = dim
        self._turn_words = dim * dim // 2 + dim * dim % 2
        self._turns_at = HEADER_WORDS + layers * rows * self.record
        size = self._turns_at + MOST_TURNS * rows * self._turn_words
        self._host: Words = np.zeros(size, dtype=np.int64)
        self.words = torch.zeros(size, dtype=torch.int64, device=device)

    @property
    def header(self) -> Tensor:
        """Columns of a piece."""
        return self.words[:HEADER_WORDS]

    def of(self, layer: int) -> Tensor:
        """The records [N, words] of a layer."""
        first = HEADER_WORDS + layer * self.rows * self.record
        return self.words[first : first + self.rows * self.record].view(self.rows, self.record)

    def upload(self, tables: Sequence[TokenTables]) -> None:
        """Take the tables of each stream over; their turns lie on the host."""
        end = self._turns_at
        records = self._host[HEADER_WORDS:end].reshape(self.layers, self.rows, self.record)
        records[:] = 0
        ranges_end = CALL_WORDS + self.ranges * RANGE_WORDS
        for row, table in enumerate(tables):
            own = records[:, row]
            own[:, :CALL_WORDS] = table.calls
            flat = table.ranges.reshape(self.layers, -1)
            own[:, CALL_WORDS : CALL_WORDS + flat.shape[1]] = flat
            moved = table.moves.reshape(self.layers, -1)
            own[:, ranges_end : ranges_end + moved.shape[1]] = moved
            turned = own[:, CALL_WORDS:ranges_end][:, _TURN_RANGE], own[:, ranges_end:][:, _TURN_MOVE]
            for address, turn in {x.data_ptr(): x for x in table.turns}.items():
                flat_turn = turn.numpy().reshape(-1).view(np.int64)
                self._host[end : end + len(flat_turn)] = flat_turn
                there = self.words.data_ptr() + end * 8
                for words in turned:
                    words[words == address] = there
                end += self._turn_words
        self._host[0] = _piece(records[:, :, CALL_WORDS:ranges_end])
        self.words[:end].copy_(torch.from_numpy(self._host[:end]))


def fits(tables: TokenTables) -> bool:
    """Whether there is room for the turns that a stream's tables name, and a piece for each run of each layer."""
    n = tables.ranges[:, :, 3]
    runs = np.where(n > 0, np.maximum(tables.ranges[:, :, 4], 1), 0)
    pieces = int(runs.sum(1).max(initial=0))
    return pieces <= PIECES and len({turn.data_ptr() for turn in tables.turns}) <= MOST_TURNS


def _piece(ranges: Words) -> int:
    """Columns of a piece, so that no layer has more than `PIECES` of them."""
    n = ranges[:, :, 3::RANGE_WORDS]
    runs = np.maximum(ranges[:, :, 4::RANGE_WORDS], 1)
    piece = LEAST_PIECE
    while int((-(-(n // runs) // piece) * runs).sum(2).max(initial=0)) > PIECES:
        piece *= 2
    return piece


def attend_by_tables(
    tables: DeviceTables,
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Tensor:
    """The output [1, N, H, D] of one token of each stream; q [1, H, N, D], k and v [1, G, N, D].

    Writes the new keys and values, and what the tables say is moved.
    """
    from everlong.ops.gpu import token_kernels as kernels

    _, H, N, D = q.shape
    G = k.shape[1]
    R = tables.ranges
    records = tables.of(layer)
    floats = {"dtype": torch.float32, "device": q.device}
    queries = torch.empty(N, max(R, 1), H, D, dtype=q.dtype, device=q.device)
    maxima = torch.empty(N, PIECES, H, **floats)
    sums = torch.empty(N, PIECES, H, **floats)
    outs = torch.empty(N, PIECES, H, D, **floats)
    out = torch.empty(1, N, H, D, dtype=q.dtype, device=q.device)
    type_of: Any = kernels.tl.bfloat16 if q.dtype == torch.bfloat16 else kernels.tl.float32
    pad = kernels.triton.next_power_of_2
    sizes = {"H": H, "G": G, "D": D, "D_PAD": max(16, pad(D)), "R": R, "TYPE": type_of}
    given = [x for t in (q, k, v) for x in (t, t.stride(2), t.stride(1))]
    asked = given[:3]
    kernels.prepare[(H, R + 1, N)](records, tables.record, *given, queries, **sizes, num_warps=2)
    shape = {"F": H // G, "F_PAD": max(16, pad(H // G)), "T": PIECES, "CAPPED": softcap is not None}
    shape["BLOCK"] = BLOCK if D <= 128 or q.dtype != torch.float32 else BLOCK // 2  # what fits into shared memory
    parts = maxima, sums, outs
    kernels.attend[(PIECES, G, N)](
        records, tables.record, tables.header, queries, *parts, scale, softcap or 1.0, **sizes, **shape
    )
    aux = maxima if s_aux is None else s_aux.float().contiguous()
    last = {"M": tables.moves, "T": PIECES, "HAS_AUX": s_aux is not None}
    kernels.merge[(H, 1 + tables.moves, N)](
        records, tables.record, tables.header, *asked, *parts, aux, out, **sizes, **last, num_warps=2
    )
    return out
