"""Ids that are one word to a reader: the same letters, with or without a space before them, in either case."""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int

_KNOWN: WeakKeyDictionary[Any, dict[tuple[int, int], Int[np.ndarray, " vocabulary"]]] = WeakKeyDictionary()
"""What was found of a tokenizer, by the sizes of vocabulary and tokenizer: all sessions of a model ask for the same."""
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that are written without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
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


def holds_word(text: str, said: str) -> bool:
    """Whether a text has one of the words that were said, in either case; True where no word was said.

    Of scripts without spaces between words a letter is enough.

    >>> holds_word("He plucked the strings.", "Starbuck"), holds_word("He plucked the strings.", "PLUCK it")
    (False, True)
    """
    asked = [part for word in _WORD.findall(said.casefold()) for part in (_UNSPACED.findall(word) or [word])]
    there = text.casefold()
    return not asked or any(part in there for part in asked)


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
