"""Ids that are one word to a reader: the same letters, with or without a space before them, in either case."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

_KNOWN: WeakKeyDictionary[Any, dict[tuple[int, int], Int[np.ndarray, " vocabulary"]]] = WeakKeyDictionary()
"""What was found of a tokenizer, by the sizes of vocabulary and tokenizer: all sessions of a model ask for the same."""
_BEFORE = ("\u0120", "\u2581", "##", " ")
"""What stands for a space before a word, or for none, in the tokens of byte-level, SentencePiece and WordPiece."""


def word_classes(tokenizer: Any, vocabulary: int) -> Int[np.ndarray, " vocabulary"]:
    """For each id the smallest id of the same word, int64 [vocabulary]; itself without a tokenizer."""
    if tokenizer is None:
        return np.arange(vocabulary, dtype=np.int64)
    known = _KNOWN.setdefault(tokenizer, {})
    key = vocabulary, len(tokenizer)
    if key not in known:
        known[key] = _found(tokenizer, vocabulary)
        known[key].setflags(write=False)
    return known[key]


def _found(tokenizer: Any, vocabulary: int) -> Int[np.ndarray, " vocabulary"]:
    found = np.arange(vocabulary, dtype=np.int64)
    first: dict[str, int] = {}
    tokens = tokenizer.convert_ids_to_tokens(range(min(vocabulary, len(tokenizer))))
    for n, token in enumerate(tokens):
        if token is not None and (word := _bare(token)):
            found[n] = first.setdefault(word, n)
    return found


def _bare(token: str) -> str:
    for before in _BEFORE:
        token = token.removeprefix(before)
    return token.lower() if token.isascii() else token
