"""Texts as tokens of known weight: which hold an answer, which the second mention of a key, which are filler."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from everlong.errors import InputError
from everlong.text.tokenize import special_ids

BEHIND = "."
"""A piece is tokenised behind it: tokenizers that treat the beginning of a text in their own way see none then."""

OTHER = -1.0
"""The weight of tokens whose share of the loss is settled when the row is complete (rows.py)."""
Span = tuple[int, int]
"""The first of some characters or tokens, and the one behind the last."""


@dataclass(frozen=True, eq=False)
class EncodedPiece:
    """Tokens that stand together in a sample; the memory may take filler in more than once."""

    ids: Int64[np.ndarray, " T"]
    loss_weight: Float32[np.ndarray, " T"]
    filler: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """Tokens [T] of a text, and the characters [T, 2] that each of them covers."""

    ids: Int64[np.ndarray, " T"]
    covers: Int64[np.ndarray, "T 2"]

    def holding(self, span: Span) -> Bool[np.ndarray, " T"]:
        """Which tokens hold any of these characters."""
        return (self.covers[:, 0] < span[1]) & (self.covers[:, 1] > span[0])

    def tokens(self, span: Span) -> Span:
        """The tokens that hold these characters, which stand side by side."""
        places = self.holding(span).nonzero()[0]
        return int(places[0]), int(places[-1]) + 1

    def piece(self, weights: Mapping[Span, float]) -> EncodedPiece:
        """The tokens, with these weights for what holds these characters, and OTHER for the rest."""
        loss = np.full(len(self.ids), OTHER, np.float32)
        for span, weight in weights.items():
            loss[self.holding(span)] = weight
        return EncodedPiece(self.ids, loss)


def encoded(tokenizer: Any, texts: Sequence[str], begin: bool = False) -> list[EncodedRow]:
    """Each text as it is tokenised behind another one, or if `begin`, as the beginning of a row.

    InputError for words outside a closed vocabulary, and for a tokenizer that cannot say where its tokens stand.
    """
    if not tokenizer.is_fast:
        raise InputError(f"tokenizer {type(tokenizer).__name__}: cannot say where tokens stand; use a fast one")
    before = "" if begin else BEHIND
    found = tokenizer(
        [before + text for text in texts],
        add_special_tokens=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        split_special_tokens=True,
        verbose=False,
    )
    rows = zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
    return [_behind(tokenizer, text, ids, covers, len(before)) for text, ids, covers in rows]


@functools.lru_cache(maxsize=64)
def standing(tokenizer: Any, *texts: str, begin: bool = False) -> tuple[EncodedRow, ...]:
    """As `encoded`, for texts that are the same in many samples: they are tokenised once."""
    return tuple(encoded(tokenizer, texts, begin))


@functools.lru_cache(maxsize=8)
def beginning(tokenizer: Any) -> EncodedPiece:
    """The tokens that the tokenizer puts before every text by itself; usually one or none."""
    ids = np.array(special_ids(tokenizer)[0], np.int64)
    return EncodedPiece(ids, np.zeros(len(ids), np.float32))


def _behind(tokenizer: Any, text: str, ids: list[int], covers: list[Span], before: int) -> EncodedRow:
    """The tokens from character `before` on; of the text alone where a token holds some from either side."""
    if tokenizer.unk_token_id in ids:
        start, end = covers[ids.index(tokenizer.unk_token_id)]
        unknown = text[max(0, start - before) : end - before]
        raise InputError(f"{unknown!r}: not in the vocabulary of the tokenizer; make one from all texts that occur")
    where = np.array(covers, np.int64).reshape(-1, 2) - before
    kept = where[:, 1] > 0
    if (where[kept, 0] < 0).any():
        return encoded(tokenizer, [text], begin=True)[0]
    return EncodedRow(np.array(ids, np.int64)[kept], where[kept])
