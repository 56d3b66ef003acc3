"""What pieces of the text mean: one small vector for each, compared with that of a question.

A vector is int8 with one scale in float16, which changes a cosine by less than 0.01; a piece takes `dim` + 18 bytes,
those of its checksum included. Votes are linear in what is stored and are taken slab by slab.

N pieces, D numbers a vector (`dim`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from everlong.methods.blocks.recall.piece_file import PieceFile, row_type
from everlong.ops.spans import Ints

SLAB_PIECES = 256
"""Rows of a slab: what is turned into float32 at once."""
LEVELS = 127
FORGOTTEN = 0
"""The key of a piece that is to be encoded again."""


class MeaningIndex:
    """Pieces 0 .. N - 1 of a stream, one behind the other: where each ends, what it means, and a key of its text.

    With a `file`, what is there already is taken from it, and every change is written to it at once; `sync` waits for
    the disk. Forks share slabs until one of them writes, and keep no file.
    """

    def __init__(self, dim: int, file: PieceFile | None = None) -> None:
        self.dim = dim
        self.pieces = 0
        self._file = file
        self._type = row_type(dim)
        self._slabs: list[np.ndarray] = []
        self._owned: list[bool] = []
        if file is not None:
            for rows in file.read(SLAB_PIECES):
                self._place(self.pieces, rows)
                self.pieces += len(rows)
            if file.writable:
                # What a killed process left half-written, or a damaged row and those behind it.
                file.truncate(self.pieces)

    def add(self, vectors: Float[Tensor, "n dim"], ends: Sequence[int], keys: Sequence[int]) -> None:
        """Append pieces: their vectors, the tokens after their last ones, and keys (CRC-32) that tell texts apart.

        A row of zeros never gets a vote above zero.
        """
        rows = self._rows(vectors, ends, keys)
        if self._file is not None:
            self._file.write(self.pieces, rows)
        self._place(self.pieces, rows)
        # Last, so that an interrupt leaves the pieces that were there.
        self.pieces += len(rows)

    def put(self, piece: int, vector: Float[Tensor, " dim"], key: int) -> None:
        """Set what a piece means anew."""
        rows = self._rows(vector[None], self.ends[piece : piece + 1].tolist(), [key])
        if self._file is not None:
            self._file.write(piece, rows)
        self._place(piece, rows)

    def votes(self, query: Float[Tensor, " dim"]) -> NDArray[np.float32]:
        """The cosine of each piece with a unit vector [N]; 0 for what was forgotten."""
        found = np.zeros(self.pieces, np.float32)
        q = query.numpy().astype(np.float32)
        slab_float = np.empty((SLAB_PIECES, self.dim), np.float32)
        for n, slab in enumerate(self._slabs):
            first = n * SLAB_PIECES
            rows = slab[: max(0, self.pieces - first)]
            if len(rows) == 0:
                break
            part = slab_float[: len(rows)]
            np.copyto(part, rows["vector"], casting="unsafe")
            found[first : first + len(rows)] = (part @ q) * rows["scale"].astype(np.float32)
        return found

    def forget(self, first_piece: int, end_piece: int) -> None:
        """Overwrite the vectors and keys of pieces with zeros, in the file too; where they end is kept."""
        end_piece = min(end_piece, self.pieces)
        if first_piece >= end_piece:
            return
        rows = np.zeros(end_piece - first_piece, self._type)
        rows["end"] = self.ends[first_piece:end_piece]
        if self._file is not None:
            self._file.write(first_piece, rows)
            self._file.sync()
        self._place(first_piece, rows)

    def truncate(self, pieces: int) -> None:
        """Keep the first `pieces` only; the others are overwritten with zeros and cut off the file."""
        if pieces >= self.pieces:
            return
        before = self.pieces
        self.pieces = pieces
        if self._file is not None:
            self._file.truncate(pieces)
        self._place(pieces, np.zeros(before - pieces, self._type))

    @property
    def ends(self) -> Ints:
        """The token after the last of each piece [N]; a piece begins where the one before it ends."""
        return self._column("end").astype(np.int64)

    @property
    def keys(self) -> Ints:
        """The key of each piece [N]; `FORGOTTEN` where it was forgotten."""
        return self._column("key").astype(np.int64)

    @property
    def tokens(self) -> int:
        """Tokens that the pieces cover, from the stream's first on."""
        at, row = divmod(self.pieces - 1, SLAB_PIECES)
        return int(self._slabs[at]["end"][row]) if self.pieces else 0

    def touching(self, first: int, end: int) -> range:
        """The pieces that have one of the tokens `first` .. `end - 1`."""
        ends = self.ends
        begin = int(np.searchsorted(ends, first, "right"))
        if first >= end:
            return range(begin, begin)
        return range(begin, min(self.pieces, int(np.searchsorted(ends, end, "left")) + 1))

    def fork(self) -> MeaningIndex:
        """The same pieces, sharing their memory, without a file."""
        other = MeaningIndex(self.dim)
        other.pieces, other._slabs = self.pieces, list(self._slabs)
        self._owned = [False] * len(self._slabs)
        other._owned = list(self._owned)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of host memory; slabs that forks share count in each."""
        return sum(slab.nbytes for slab in self._slabs)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the file; 0 without one."""
        return 0 if self._file is None else self._file.nbytes

    def sync(self) -> None:
        """Wait until the disk has all that was written."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Give the file back; the pieces stay in memory."""
        file = self._file
        self._file = None
        if file is not None:
            file.close()

    def _rows(self, vectors: Tensor, ends: Sequence[int], keys: Sequence[int]) -> np.ndarray:
        """Rows of the index for these vectors [n, D]."""
        x = vectors.float().numpy()
        rows = np.zeros(len(x), self._type)
        rows["scale"] = np.abs(x).max(1, initial=0) / LEVELS
        # Divided by the scale as it is kept, or a scale that float16 rounds would be an error of its own.
        scale = rows["scale"].astype(np.float32)
        scale[scale == 0] = 1
        rows["vector"] = np.clip(np.rint(x / scale[:, None]), -LEVELS, LEVELS)
        rows["end"], rows["key"] = ends, keys
        return rows

    def _place(self, first: int, rows: np.ndarray) -> None:
        """Write rows into slabs, copying those that a fork shares."""
        done = 0
        while done < len(rows):
            at, row = divmod(first + done, SLAB_PIECES)
            if at == len(self._slabs):
                self._slabs.append(np.zeros(SLAB_PIECES, self._type))
                self._owned.append(True)
            if not self._owned[at]:
                self._slabs[at] = self._slabs[at].copy()
                self._owned[at] = True
            part = rows[done : done + SLAB_PIECES - row]
            self._slabs[at][row : row + len(part)] = part
            done += len(part)

    def _column(self, name: str) -> np.ndarray:
        """One field of all pieces [N]."""
        columns = [slab[name] for slab in self._slabs]
        return np.concatenate(columns)[: self.pieces] if columns else np.zeros(0, np.int64)
