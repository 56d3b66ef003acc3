"""What a session accepts: text, ids, or an iterator of text; turned into checked id tensors of bounded length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from everlong.errors import CapabilityError, InputError
from everlong.text import tokenize as text
from everlong.text.offsets import plain_rows


@dataclass(frozen=True)
class Tokens:
    """Tokens whose text is known: `rows` int64 [n, 3] of id, width and shared characters, as in offsets.py."""

    rows: Int[Tensor, "tokens 3"]


Input = str | Tensor | np.ndarray | Sequence[int] | Iterable[str] | Tokens
"""Text, ids (list, tuple, one-dimensional integer tensor or array), an iterable of text, or tokens of a known text."""

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
