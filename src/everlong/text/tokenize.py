"""Tokenising a stream of text in bounded memory, with the ids that the whole text would have.

The text is cut where a space follows something else. A cut counts only when the tokens before it are the
same with and without the text behind it, and the text after it is tokenised behind a piece of what came
before, so that tokenizers which treat the beginning of a text in their own way (prefix spaces) see no
beginning there. Where a text has no such space for long, other places are tried by the same test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from transformers import BatchEncoding

from everlong.errors import InputError
from everlong.text import control_tokens as control
from everlong.text.offsets import Rows, Spans, plain_rows, text_rows

PIECE_CHARS = 8192
"""Characters tokenised at a time."""
MARGIN_CHARS = 512
"""Characters that must be known behind a cut, and that are kept before it."""


class EncodedText(NamedTuple):
    """The ids of a text, and what the tokenizer knows of them beside (None for tokenizers written in Python)."""

    ids: list[int]
    encoding: Any = None

    def spans(self, first: int, end: int, skipped: int = 0) -> Spans | None:
        """The characters [n, 2] of the tokens `first` .. `end - 1`, behind the first `skipped` of the text."""
        if self.encoding is None:
            return None
        return np.array(self.encoding.offsets[first:end], dtype=np.int64).reshape(-1, 2) - skipped


class TextPiece(NamedTuple):
    """A piece of a text and its tokens; `encoded` has them from number `first` on, behind `skipped` characters."""

    text: str
    ids: list[int]
    encoded: EncodedText
    first: int = 0
    skipped: int = 0

    def rows(self, tokenizer: Any) -> Rows:
        """The tokens with their characters."""
        spans = self.encoded.spans(self.first, self.first + len(self.ids), self.skipped)
        return text_rows(tokenizer, self.ids, self.text, spans)


def _encoded(tokenizer: Any, text: str, allow_special: bool = False) -> EncodedText:
    found = _as_tokenizer(tokenizer, text, special=False)
    if not allow_special and (known := control.of(tokenizer)).spelt(text, found.ids):
        return EncodedText(*known.encoded(text))
    return found


def _as_tokenizer(tokenizer: Any, text: str, special: bool) -> EncodedText:
    """What the tokenizer itself makes of a text: control tokens are found in it."""
    try:
        found = tokenizer(text, add_special_tokens=special, return_attention_mask=False, verbose=False)
    except (TypeError, UnicodeEncodeError) as error:
        if _is_unicode(text):
            raise
        raise InputError(
            "text: holds half of a surrogate pair; decode the bytes with errors='replace' before feeding"
        ) from error
    encodings = found.encodings if isinstance(found, BatchEncoding) else None
    return EncodedText(list(found["input_ids"]), encodings[0] if encodings else None)


def token_ids(tokenizer: Any, text: str, special: bool = False, allow_special: bool = False) -> list[int]:
    """The ids of `text`; with `special`, the tokens that the tokenizer itself adds are among them.

    `allow_special`: what spells a control token becomes one. InputError for text that is not Unicode (lone surrogates).
    """
    ids = _encoded(tokenizer, text, allow_special).ids
    if not special:
        return ids
    if ids == _as_tokenizer(tokenizer, text, special=False).ids:
        return _as_tokenizer(tokenizer, text, special=True).ids
    before, after = special_ids(tokenizer)
    return [*before, *ids, *after]


def ids_behind(tokenizer: Any, context: str, text: str, allow_special: bool = False) -> list[int]:
    """The ids of `text` as they are where it follows `context`, without the tokens that the tokenizer itself adds."""
    return _piece_behind(tokenizer, context, text, allow_special).ids


def _piece_behind(tokenizer: Any, context: str, text: str, allow_special: bool = False) -> TextPiece:
    before = token_ids(tokenizer, context, allow_special=allow_special) if context else []
    whole = _encoded(tokenizer, context + text, allow_special)
    if _begins(whole.ids, before):
        return TextPiece(text, whole.ids[len(before) :], whole, len(before), len(context))
    alone = _encoded(tokenizer, text, allow_special)
    return TextPiece(text, alone.ids, alone)


def special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds by itself before a text and behind it (usually a beginning token or none)."""
    bare, full = (_as_tokenizer(tokenizer, "a", special).ids for special in (False, True))
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start], full[start + len(bare) :]
    return [], []


def pieces(
    texts: Iterable[str],
    tokenizer: Any,
    special: bool = False,
    piece_chars: int = PIECE_CHARS,
    margin_chars: int = MARGIN_CHARS,
    allow_special: bool = False,
) -> Iterator[list[int]]:
    """The ids of the concatenation of `texts`, piece by piece; together they equal those of the whole text.

    `special`: with the tokens that the tokenizer adds by itself, once, around the whole. At most
    4 * piece_chars + margin_chars characters are held; a text without any place to cut for so long is cut
    anyway, and only there the ids may differ from those of the whole.
    """
    for found in _pieces(texts, tokenizer, special, piece_chars, margin_chars, allow_special):
        yield found if isinstance(found, list) else found.ids


def token_rows(
    texts: Iterable[str],
    tokenizer: Any,
    special: bool = False,
    piece_chars: int = PIECE_CHARS,
    margin_chars: int = MARGIN_CHARS,
    allow_special: bool = False,
) -> Iterator[Rows]:
    """The same tokens as `pieces`, each with its characters: rows (id, width, shared), as in offsets.py.

    Characters of a piece without tokens (white space that a tokenizer drops) belong to the next token.
    """
    dropped = 0
    for found in _pieces(texts, tokenizer, special, piece_chars, margin_chars, allow_special):
        if isinstance(found, list):
            yield plain_rows(found)
            continue
        rows = found.rows(tokenizer)
        if len(rows):
            rows[0, 1] += dropped
            dropped = 0
        else:
            dropped += len(found.text)
        yield rows


def _pieces(
    texts: Iterable[str],
    tokenizer: Any,
    special: bool,
    piece_chars: int,
    margin_chars: int,
    allow_special: bool,
) -> Iterator[TextPiece | list[int]]:
    """The pieces of a text, and around them the ids that the tokenizer adds by itself."""
    before, after = special_ids(tokenizer) if special else ([], [])
    begun = False
    for piece in _cut_pieces(texts, tokenizer, piece_chars, margin_chars, allow_special):
        if not begun and before and not (allow_special and _begins(piece.ids, before)):
            yield before
        begun = True
        yield piece
    if begun and after:
        yield after


def _cut_pieces(
    texts: Iterable[str], tokenizer: Any, piece_chars: int, margin_chars: int, allow_special: bool
) -> Iterator[TextPiece]:
    """The pieces of a text."""
    context = ""
    waiting = ""
    for part in _parts(texts, piece_chars):
        waiting += part
        while len(waiting) >= piece_chars + margin_chars:
            piece = _cut(tokenizer, context, waiting, len(waiting) - margin_chars, allow_special)
            if piece is None and len(waiting) < 4 * piece_chars:
                break
            piece = piece or _piece_behind(tokenizer, context, waiting[:piece_chars], allow_special)
            context = _context(tokenizer, context + piece.text, piece.ids, margin_chars, allow_special)
            waiting = waiting[len(piece.text) :]
            yield piece
    if waiting:
        yield _piece_behind(tokenizer, context, waiting, allow_special)


def _parts(texts: Iterable[str], limit: int) -> Iterator[str]:
    """The texts in parts of 1 to `limit` characters."""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"an item of the stream is {type(text).__name__}: expected text; yield str, or pass ids")
        for start in range(0, len(text), limit):
            yield text[start : start + limit]


def _cut(tokenizer: Any, context: str, text: str, limit: int, allow_special: bool) -> TextPiece | None:
    """The text before the last sure place to cut up to `limit`, and its tokens; None without such a place."""
    whole = _encoded(tokenizer, context + text, allow_special)
    start = _encoded(tokenizer, context, allow_special).ids if context else []
    for cut in _places(text, limit, limit // 2):
        head = _encoded(tokenizer, context + text[:cut], allow_special).ids
        if len(head) > len(start) and _begins(whole.ids, head) and _begins(head, start):
            return TextPiece(text[:cut], head[len(start) :], whole, len(start), len(context))
    return None


def _context(tokenizer: Any, text: str, ids: list[int], margin: int, allow_special: bool) -> str:
    """The shortest end of `text`, of `margin` characters or more, that is tokenised as within `text` (`ids`)."""
    for start in _places(text, len(text) - margin, max(0, len(text) - 3 * margin)):
        tail = _encoded(tokenizer, text[start:], allow_special).ids
        tail = tail[len(tail) // 2 :]
        if tail and tail == ids[-len(tail) :]:
            return text[start:]
    return ""


def _places(text: str, high: int, low: int) -> Iterator[int]:
    """Places to cut from `high` down to `low`, the surest first: before a space, before white space, anywhere."""
    down = range(high, max(low, 1) - 1, -1)
    words = (i for i in down if i < len(text) and text[i].isspace() and not text[i - 1].isspace())
    found = [i for i, _ in zip(words, range(32), strict=False)]
    yield from [i for i in found if text[i] == " "][:8]
    yield from [i for i in found if text[i] != " "][:8]
    yield from down[:32]


def _begins(ids: list[int], start: list[int]) -> bool:
    return ids[: len(start)] == start


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
