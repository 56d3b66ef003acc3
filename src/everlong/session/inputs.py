"""What a session accepts: text, ids, or an iterator of text; turned into checked id tensors of bounded length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.errors import CapabilityError, InputError
from everlong.session.text import pieces

Input = str | Tensor | np.ndarray | Sequence[int] | Iterable[str]
"""Text, ids (list, tuple, one-dimensional integer tensor or array), or an iterable of text."""

_FLOATING = "whole numbers expected; pass the ids that the tokenizer gave"


def id_pieces(x: Input, tokenizer: Any, vocabulary: int, special: bool) -> Iterator[Tensor]:
    """Checked int64 CPU tensors [n] that together are the ids of `x`.

    Ids come as one tensor, text in pieces of bounded length. `special`: text gets the tokens that the
    tokenizer adds by itself. InputError for ids outside 0..vocabulary-1 and for what is neither text nor ids.
    """
    if is_text(x):
        if tokenizer is None:
            raise CapabilityError("text: this session has no tokenizer; pass ids, or a model that everlong.load gave")
        texts = [x] if isinstance(x, str) else x
        found: Iterable[Any] = pieces(texts, tokenizer, special)  # pyrefly: ignore
    else:
        found = [x]
    for ids in found:
        tensor = as_ids(ids, vocabulary)
        if tensor.numel():
            yield tensor


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
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise InputError(
            f"id {wrong}: outside the model's vocabulary (0..{vocabulary - 1}); was another tokenizer used?"
        )
    return ids


def chunks(found: Iterable[Tensor], tokens: int) -> Iterator[Tensor]:
    """The same ids in tensors of exactly `tokens`, but for the last, so that calls have the same shapes."""
    waiting = torch.empty(0, dtype=torch.int64)
    for new in found:
        ids = torch.cat([waiting, new]) if waiting.numel() else new
        whole = ids.numel() - ids.numel() % tokens
        yield from ids[:whole].split(tokens) if whole else ()
        waiting = ids[whole:]
    if waiting.numel():
        yield waiting


def with_tail(found: Iterable[Tensor], tokens: int) -> Iterator[tuple[Tensor, bool]]:
    """The same ids as (ids, False), and the last `tokens` of all as (ids, True); no tensor longer than those found."""
    held, longest = torch.empty(0, dtype=torch.int64), 1
    for ids in found:
        longest = max(longest, len(ids))
        held = torch.cat([held, ids])
        early = max(0, len(held) - tokens)
        if early:
            yield held[:early], False
        held = held[early:]
    for ids in held.split(longest) if len(held) else ():
        yield ids, True
