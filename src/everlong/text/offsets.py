"""Which characters of a text its tokens stand for: found where the text is tokenised, kept in one byte for each token.

A token is a row (id, width, shared). `width` counts the characters that end with it: those of white space which the
tokenizer drops belong to the token after them, and a character of several tokens to the first of them. `shared` counts
the characters before these that the token holds a part of. So the widths of a text sum up to its length, whatever a
normaliser made of its characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

UNKNOWN = 255
"""The byte of a token whose text nobody gave: its characters are those of its decoded text."""
WIDE = 31
"""Widths from here on do not fit in a byte; behind such a token stands a mark."""
_SHARED_BITS = 5
_MOST_SHARED = 6
_LOOK_AHEAD_CHARS = 64
"""How far on the text of a token is looked for, where the tokenizer itself does not say where it stands."""
_HELD_TOKENS = 3
"""How many tokens of a character may come before its last."""

Rows = Int[np.ndarray, "tokens 3"]
Spans = Int[np.ndarray, "tokens 2"]


def plain_rows(ids: Sequence[int] | Int[np.ndarray, " tokens"], width: int = 0) -> Rows:
    """The rows of tokens that stand for no character; with `width` -1, of tokens that came without a text."""
    rows = np.zeros((len(ids), 3), dtype=np.int64)
    rows[:, 0] = ids
    rows[:, 1] = width
    return rows


def text_rows(tokenizer: Any, ids: Sequence[int], text: str, spans: Spans | None) -> Rows:
    """The rows of the tokens of `text`, whose widths sum up to its length if there is a token at all.

    `spans` [n, 2] are the first character of each token and the one after its last, as the tokenizer gives them; None
    where it cannot: then the tokens' decoded texts are looked for in `text`, and what is not found is spread roughly.
    """
    if not len(ids):
        return plain_rows(ids)
    spans = _found(tokenizer, ids, text) if spans is None else spans.clip(0, len(text))
    starts = spans[:, 0]
    ends = np.maximum.accumulate(spans[:, 1])
    ends[-1] = len(text)
    before = np.concatenate([[0], ends[:-1]])
    gaps = np.flatnonzero(starts[1:] > ends[:-1])
    if len(gaps):
        # Byte-level tokenizers may leave the spaces at both ends of a token out of its span.
        trimmed = _trimmed_spaces(tokenizer, np.asarray(ids)[gaps], (ends - before)[gaps])
        ends[gaps] += np.minimum(trimmed, starts[gaps + 1] - ends[gaps])
        before[1:] = ends[:-1]
    rows = plain_rows(ids)
    rows[:, 1] = ends - before
    rows[:, 2] = np.where(spans[:, 1] > starts, (before - starts).clip(0), 0)
    return rows


def _trimmed_spaces(
    tokenizer: Any, ids: Int[np.ndarray, " tokens"], widths: Int[np.ndarray, " tokens"]
) -> Int[np.ndarray, " tokens"]:
    """How many spaces each of these tokens has behind something else; of nothing but spaces, beyond its width."""
    different, which = np.unique(ids, return_inverse=True)
    spelt = [str(token) for token in tokenizer.convert_ids_to_tokens(different.tolist())]
    bare = np.array([len(token.rstrip("Ġ ")) for token in spelt])[which]
    whole = np.array([len(token) for token in spelt])[which]
    return np.where(bare > 0, whole - bare, (whole - widths).clip(0))


def _found(tokenizer: Any, ids: Sequence[int], text: str) -> Spans:
    """Where the decoded text of each token stands in `text`, looked for from where the one before it ends."""
    lower = text.lower()
    lower = lower if len(lower) == len(text) else text
    spans = np.zeros((len(ids), 2), dtype=np.int64)
    at = held = 0
    for n in range(len(ids)):
        # The first bytes of a character are held until the rest of it comes.
        said = tokenizer.decode(list(ids[held : n + 1]), clean_up_tokenization_spaces=False)
        whole = "\N{REPLACEMENT CHARACTER}" not in said or text.startswith(said, at)
        if not whole and n - held < _HELD_TOKENS:
            continue
        folded = said.lower() if len(said.lower()) == len(said) else said
        place = lower.find(folded, at, at + len(said) + _LOOK_AHEAD_CHARS)
        end = at if place < 0 else place + len(said)
        spans[held : n + 1] = (at, end)
        at = end
        held = n + 1
    spans[held:] = at
    return spans


def packed(rows: Rows) -> bytes:
    """One byte for each token: UNKNOWN without a text, else its width (WIDE for more) and what it shares."""
    width = np.minimum(rows[:, 1], WIDE)
    shared = np.minimum(rows[:, 2], _MOST_SHARED)
    return np.where(rows[:, 1] < 0, UNKNOWN, width | shared << _SHARED_BITS).astype(np.uint8).tobytes()


def width_of(code: int) -> int:
    """The width in a byte that is not UNKNOWN; WIDE for it or more."""
    return code & WIDE


_WIDTHS = bytes(map(width_of, range(256)))


def whole_width(codes: bytes | bytearray) -> int:
    """The sum of the widths in bytes of which none is UNKNOWN."""
    return sum(codes.translate(_WIDTHS))


def shared_of(code: int) -> int:
    """The number of characters in a byte that the token shares with those before it; 0 for UNKNOWN."""
    return 0 if code == UNKNOWN else code >> _SHARED_BITS
