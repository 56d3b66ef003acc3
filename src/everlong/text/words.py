"""Ids that are one word to a reader: the same letters, with or without a space before them, in either case."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

_BEFORE = ("\u0120", "\u2581", "##", " ")
"""What stands for a space before a word, or for none, in the tokens of byte-level, SentencePiece and WordPiece."""


def word_classes(tokenizer: Any, vocabulary: int) -> Int[np.ndarray, " vocabulary"]:
    """For each id the smallest id of the same word, int64 [vocabulary]; itself without a tokenizer."""
    found = np.arange(vocabulary, dtype=np.int64)
    if tokenizer is None:
        return found
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
