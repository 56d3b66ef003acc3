"""The recall index: the raw keys of a few heads for every stored token, small enough to be read whole for a question.

Keys are int8 with a scale and an offset in float16 per channel and block (as KIVI, arXiv 2402.02750, does for keys).
One row holds a block; rows lie in append-only files (`RecallFiles`) or in host memory, and are never moved.

L tokens per block at most, D head dim, G kv heads, h retrieval heads that share a kv head, T tokens, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.recall.files import RecallFiles
from everlong.models.layout import ModelLayout
from everlong.storage.codecs.integers import quantised
from everlong.storage.growable_rows import GrowableRows

FIRST_SLAB = 4
LARGEST_SLAB = 64
ROWS_AT_ONCE = 32
"""Rows that are looked at together: what fits into the cache of a core."""
BITS = 8


@dataclass(frozen=True)
class KeyPair:
    """The keys of one kv head of a layer, `dim` wide, and the query heads of it that vote."""

    layer: int
    kv_head: int
    dim: int
    heads: tuple[int, ...]


def key_pairs(heads: Iterable[tuple[int, int]], query_heads: int, keys: dict[int, tuple[int, int]]) -> list[KeyPair]:
    """The pairs of these (layer, query head), in order of their layers; `keys` are (kv heads, dim) by layer.

    Heads of layers that are not in `keys` are left out: their keys are not stored.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for layer, head in heads:
        if layer in keys:
            found.setdefault((layer, head // (query_heads // keys[layer][0])), []).append(head)
    return [KeyPair(layer, g, keys[layer][1], tuple(sorted(hs))) for (layer, g), hs in sorted(found.items())]


class RecallIndex:
    """Rows of blocks 0 .. `blocks` - 1, in `files` as far as these go, the rest in host memory."""

    def __init__(self, pairs: Sequence[KeyPair], tokens: int, files: RecallFiles | None = None) -> None:
        self.pairs = tuple(pairs)
        self.tokens = tokens
        self.files = files
        self.row_bytes = sum((tokens + 4) * pair.dim for pair in self.pairs)
        self._base = 0
        if files is not None:
            files.row_bytes = self.row_bytes
            self._base = files.blocks
        self.blocks = self._base
        self._rows = GrowableRows(self.row_bytes, torch.uint8, FIRST_SLAB, LARGEST_SLAB)
        self._staged: dict[int, Tensor] = {}

    @property
    def layers(self) -> set[int]:
        """The layers whose keys it holds."""
        return {pair.layer for pair in self.pairs}

    def put(self, layer: int, first: int, k_NGLD: Float[Tensor, "N G n D"]) -> None:
        """Stage the raw keys of the blocks from `first` on, of n <= L tokens in each; what is staged is replaced."""
        at = 0
        for pair in self.pairs:
            size = (self.tokens + 4) * pair.dim
            if pair.layer == layer:
                for block, part in enumerate(_encoded(k_NGLD[:, pair.kv_head], self.tokens).cpu(), first):
                    if block not in self._staged:
                        with torch.inference_mode(False):
                            self._staged[block] = torch.zeros(self.row_bytes, dtype=torch.uint8)
                    self._staged[block][at : at + size] = part
            at += size

    def commit(self, blocks: int) -> None:
        """Keep the staged blocks below `blocks`, and forget other staged ones.

        An index that lacks earlier blocks takes none: `catch_up` (methods/blocks/recall/rebuild.py) has it follow.
        """
        for block in range(self.blocks, blocks):
            row = self._staged.pop(block, None)
            if row is None:
                break
            if self.files is not None and self.files.writable:
                self.files.write(block, row)
                self._base = block + 1
            else:
                self._rows.room(block - self._base).copy_(row)
            self.blocks = block + 1
        self._staged.clear()

    def rows(self, first: int, end: int) -> UInt8[Tensor, "n bytes"]:
        """The rows of the blocks `first` .. `end` - 1; DamagedError where the disk has not what was written."""
        parts = []
        if first < self._base:
            assert self.files is not None
            parts.append(self.files.read(first, min(end, self._base)))
        if end > self._base:
            held = [self._rows.row(n)[None] for n in range(max(first, self._base) - self._base, end - self._base)]
            parts += held
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def chunks(self, end: int | None = None) -> Iterator[tuple[int, UInt8[Tensor, "n bytes"]]]:
        """All rows below `end`, some at a time, each time with the number of the first."""
        end = self.blocks if end is None else min(end, self.blocks)
        for first in range(0, end, ROWS_AT_ONCE):
            yield first, self.rows(first, min(first + ROWS_AT_ONCE, end))

    def keys(
        self, rows: UInt8[Tensor, "n bytes"]
    ) -> Iterator[tuple[KeyPair, UInt8[Tensor, "n L D"], Float16[Tensor, "n D"], Float16[Tensor, "n D"]]]:
        """Pair by pair the codes, scales and offsets in these rows: key = code * scale + offset."""
        at = 0
        for pair in self.pairs:
            codes = rows[:, at : at + self.tokens * pair.dim].unflatten(1, (self.tokens, pair.dim))
            at += self.tokens * pair.dim
            scale, low = (rows[:, at + i : at + i + 2 * pair.dim].view(torch.float16) for i in (0, 2 * pair.dim))
            at += 4 * pair.dim
            yield pair, codes, scale, low

    def erase(self, blocks: Iterable[int]) -> None:
        """Overwrite the rows of these blocks that are in host memory; those in files are the library's to overwrite."""
        for block in blocks:
            if self._base <= block < self.blocks:
                self._rows.own(block - self._base).zero_()

    def joined(self) -> UInt8[Tensor, "N bytes"]:
        """All rows in one new tensor, to be saved."""
        return self.rows(0, self.blocks).clone() if self.blocks else torch.empty(0, self.row_bytes, dtype=torch.uint8)

    def restore(self, rows: UInt8[Tensor, "N bytes"]) -> None:
        """Take saved rows; for an index without files that holds nothing."""
        self._rows.restore(rows)
        self.blocks = len(rows)

    def fork(self) -> RecallIndex:
        """An index with the same rows, sharing them; what it takes from now on stays in host memory."""
        other = RecallIndex(self.pairs, self.tokens, None if self.files is None else self.files.reader())
        other._base, other.blocks, other._rows = self._base, self.blocks, self._rows.fork()
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        return self._rows.nbytes + sum(row.nbytes for row in self._staged.values())

    @property
    def disk_bytes(self) -> int:
        """Bytes on the disk, rows that are shared with other sessions included."""
        return 0 if self.files is None else self.files.nbytes


MakeRecall = Callable[[BlockSettings, ModelLayout, Sequence[KeyPair] | None], RecallIndex | None]
"""An index for a new stream of a model, of these pairs, or (None) of those of the model's retrieval heads."""


def no_recall(settings: BlockSettings, plan: ModelLayout, pairs: Sequence[KeyPair] | None) -> RecallIndex | None:
    """An index in host memory where a saved state had one; questions are not compared with keys otherwise."""
    return None if pairs is None else RecallIndex(pairs, settings.block)


def _encoded(k_NLD: Float[Tensor, "N n D"], tokens: int) -> UInt8[Tensor, "N bytes"]:
    """Of each row its part: codes, scale and offset per channel; behind the n tokens codes are 0."""
    N, n, dim = k_NLD.shape
    scale, low = k_NLD.new_empty(2, N, 1, dim, dtype=torch.float16)
    codes = torch.zeros(N, tokens, dim, dtype=torch.uint8, device=k_NLD.device)
    codes[:, :n] = quantised(k_NLD.float(), 1, BITS, scale, low)
    return torch.cat([codes.flatten(1), scale.flatten(1).view(torch.uint8), low.flatten(1).view(torch.uint8)], 1)
