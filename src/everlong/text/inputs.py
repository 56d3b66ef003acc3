"""What a session accepts: text, ids, or an iterator of text; turned into checked id tensors of bounded length.

And what of it is about to be read, and was read last.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from everlong.errors import CapabilityError, InputError
from everlong.text import tokenize as text
from everlong.text.offsets import Rows, plain_rows


@dataclass(frozen=True)
class Tokens:
    """Tokens whose text is known: `rows` int64 [n, 3] of id, width and shared characters, as in offsets.py."""

    rows: Int[Tensor, "tokens 3"]


Input = str | Tensor | np.ndarray | Sequence[int] | Iterable[str] | Tokens
"""Text, ids (list, tuple, one-dimensional integer tensor or array), an iterable of text, or tokens of a known text."""

Shown = Any
"""An image of Pillow, the Path of a file with one, or a list or tuple of these and texts."""

_FLOATING = "whole numbers expected; pass the ids that the tokenizer gave"


def id_pieces(
    x: Input, tokenizer: Any, vocabulary: int, special: bool, allow_special: bool = False
) -> Iterator[Tensor]:
    """Checked int64 CPU tensors [n] that together are the ids of `x`.

    Ids come as one tensor, text in pieces of bounded length. `special`: text gets the tokens that the
    tokenizer adds by itself; `allow_special`: what spells a control token becomes one. InputError for ids outside
    0..vocabulary-1 and for what is neither text nor ids.
    """
    if isinstance(x, Tokens):
        found: Iterable[Any] = [x.rows[:, 0]]
    elif is_text(x):
        found = text.pieces(_texts(x, tokenizer), tokenizer, special, allow_special=allow_special)
    else:
        found = [x]
    for ids in found:
        tensor = as_ids(ids, vocabulary)
        if tensor.numel():
            yield tensor


def row_pieces(
    x: Input, tokenizer: Any, vocabulary: int, special: bool, allow_special: bool = False
) -> Iterator[Int[Tensor, "tokens 3"]]:
    """The same tokens as `id_pieces`, as rows (id, width, shared) of offsets.py; width -1 for those given as ids."""
    if isinstance(x, Tokens):
        found: Iterable[Any] = [x.rows.numpy()]
    elif is_text(x):
        found = text.token_rows(_texts(x, tokenizer), tokenizer, special, allow_special=allow_special)
    else:
        found = [plain_rows(as_ids(x, vocabulary).numpy(), width=-1)]
    for rows in found:
        as_ids(rows[:, 0], vocabulary)
        if len(rows):
            yield torch.from_numpy(rows)


def _texts(x: Any, tokenizer: Any) -> Iterable[str]:
    if tokenizer is None:
        raise CapabilityError("text: this session has no tokenizer; pass ids, or a model that everlong.load gave")
    return [x] if isinstance(x, str) else x


def is_image(x: Any) -> bool:
    """Whether `x` is an image (of Pillow), or the path of a file as a `Path`; text is a str."""
    # Asked for every token that is read: who holds an image has imported Pillow.
    pillow = sys.modules.get("PIL.Image")
    return isinstance(x, Path) or (pillow is not None and isinstance(x, pillow.Image))


def holds_images(x: Any) -> bool:
    """Whether `x` is an image, or a list or tuple with one in it; a list that begins with an id has none."""
    if isinstance(x, list | tuple):
        return len(x) > 0 and not isinstance(x[0], int) and any(map(is_image, x))
    return is_image(x)


def is_text(x: Any) -> bool:
    """Whether `x` is text or an iterable of text (and not ids)."""
    if isinstance(x, str):
        return True
    if isinstance(x, Tensor | np.ndarray | bytes):
        return False
    if isinstance(x, Sequence):
        return len(x) > 0 and isinstance(x[0], str)
    return isinstance(x, Iterable)


def as_ids(x: Any, vocabulary: int) -> Tensor:
    """`x` as a checked int64 CPU tensor [n]; InputError says what is wrong with it."""
    try:
        ids = x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
    except (TypeError, ValueError) as error:
        raise InputError(f"{type(x).__name__}: expected text, ids or an iterator of text") from error
    if ids.ndim != 1:
        raise InputError(f"ids of shape {list(ids.shape)}: expected one dimension; pass one row at a time")
    if not ids.numel():
        return torch.empty(0, dtype=torch.int64)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InputError(f"ids of type {ids.dtype}: {_FLOATING}")
    ids = ids.to("cpu", torch.int64)
    low = int(ids.min())
    high = int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(
            f"id {wrong}: outside the model's vocabulary (0..{vocabulary - 1}); was another tokenizer used?"
        )
    return ids


def chunks(found: Iterable[Tensor], tokens: int) -> Iterator[Tensor]:
    """The same ids (or rows) in tensors of exactly `tokens`, but for the last, so that calls have the same shapes."""
    waiting: Tensor | None = None
    for new in found:
        ids = new if waiting is None else torch.cat([waiting, new])
        whole = len(ids) - len(ids) % tokens
        yield from ids[:whole].split(tokens) if whole else ()
        waiting = ids[whole:]
    if waiting is not None and len(waiting):
        yield waiting


def with_tail(found: Iterable[Tensor], tokens: int) -> Iterator[tuple[Tensor, bool]]:
    """The same ids as (ids, False), and the last `tokens` of all as (ids, True); no tensor longer than those found."""
    held = torch.empty(0, dtype=torch.int64)
    longest = 1
    for ids in found:
        longest = max(longest, len(ids))
        held = torch.cat([held, ids])
        early = max(0, len(held) - tokens)
        if early:
            yield held[:early], False
        held = held[early:]
    for ids in held.split(longest) if len(held) else ():
        yield ids, True


class Awaited:
    """The rows of tokens that are about to be read, by their place in the stream."""

    def __init__(self) -> None:
        self._rows: deque[tuple[int, Tensor]] = deque()

    def clear(self) -> None:
        """Expect nothing."""
        self._rows.clear()

    def add(self, rows: Int[Tensor, "tokens 3"], seen: int) -> None:
        """Expect `rows` behind all that is expected, or behind the `seen` tokens that were read."""
        while self._rows and self._rows[0][0] + len(self._rows[0][1]) <= seen:
            self._rows.popleft()
        first, last = self._rows[-1] if self._rows else (seen, rows[:0])
        self._rows.append((max(seen, first + len(last)), rows))

    def rows(self, first: int, ids: Int[Tensor, " tokens"]) -> Rows | None:
        """The rows of the tokens `ids`, read as number `first` and on; None where others were expected."""
        if not self._rows:
            return None
        end = first + len(ids)
        found = [rows[max(0, first - at) : max(0, end - at)] for at, rows in self._rows]
        rows = torch.cat(found) if found else torch.empty(0, 3, dtype=torch.int64)
        return rows.numpy() if torch.equal(rows[:, 0], ids) else None


class TokenHistory:
    """The last `size` ids; `seen` counts all that were added."""

    def __init__(self, size: int) -> None:
        self.seen = 0
        self.size = size
        self._ring = torch.zeros(size, dtype=torch.int64)

    def add(self, ids: Tensor) -> None:
        """Take in `ids` [n], int64 on the CPU, the newest last."""
        kept = ids[-self.size :]
        first = self.seen + len(ids) - len(kept)
        at = first % self.size
        end = at + len(kept)
        if end <= self.size:
            self._ring[at:end] = kept
        else:
            self._ring[torch.arange(at, end) % self.size] = kept
        self.seen += len(ids)

    def ids(self, count: int | None = None) -> Tensor:
        """The last `count` ids (default: all that are kept), int64 [n], the oldest first."""
        held = min(self.seen, self.size)
        count = held if count is None else min(count, held)
        return self._ring[torch.arange(self.seen - count, self.seen) % self.size]

    def forget(self, first: int, end: int, filler: int) -> None:
        """Put `filler` in the place of the ids number `first` .. `end - 1` of the stream."""
        kept = torch.arange(max(first, self.seen - self.size), max(end, self.seen - self.size))
        self._ring[kept % self.size] = filler

    def copy(self) -> TokenHistory:
        """An independent copy."""
        return TokenHistory.restored(self.size, self.ids(), self.seen)

    @classmethod
    def restored(cls, size: int, ids: Tensor, seen: int) -> TokenHistory:
        """The ring of a stream of `seen` ids that ends with `ids`."""
        ring = cls(size)
        ring.seen = seen - len(ids)
        ring.add(ids)
        return ring
