"""Tokenising a stream of text in bounded memory, with the ids that the whole text would have.

The text is cut where a space follows something else. A cut counts only when the tokens before it are the
same with and without the text behind it, and the text after it is tokenised behind a piece of what came
before, so that tokenizers which treat the beginning of a text in their own way (prefix spaces) see no
beginning there. Where a text has no such space for long, other places are tried by the same test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from everlong.errors import InputError

PIECE_CHARS = 8192
"""Characters tokenised at a time."""
MARGIN_CHARS = 512
"""Characters that must be known behind a cut, and that are kept before it."""


def token_ids(tokenizer: Any, text: str, special: bool = False) -> list[int]:
    """The ids of `text`; with `special`, the tokens that the tokenizer itself adds are among them.

    InputError for text that is not Unicode (lone surrogates).
    """
    try:
        encoded = tokenizer(text, add_special_tokens=special, return_attention_mask=False, verbose=False)
    except (TypeError, UnicodeEncodeError) as error:
        if _is_unicode(text):
            raise
        raise InputError(
            "text: holds half of a surrogate pair; decode the bytes with errors='replace' before feeding"
        ) from error
    return list(encoded["input_ids"])


def ids_behind(tokenizer: Any, context: str, text: str) -> list[int]:
    """The ids of `text` as they are where it follows `context`, without special tokens."""
    before = token_ids(tokenizer, context) if context else []
    whole = token_ids(tokenizer, context + text)
    return whole[len(before) :] if _begins(whole, before) else token_ids(tokenizer, text)


def special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds by itself before a text and behind it (usually a beginning token or none)."""
    bare, full = token_ids(tokenizer, "a"), token_ids(tokenizer, "a", special=True)
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
) -> Iterator[list[int]]:
    """The ids of the concatenation of `texts`, piece by piece; together they equal those of the whole text.

    `special`: with the tokens that the tokenizer adds by itself, once, around the whole. At most
    4 * piece_chars + margin_chars characters are held; a text without any place to cut for so long is cut
    anyway, and only there the ids may differ from those of the whole.
    """
    before, after = special_ids(tokenizer) if special else ([], [])
    context, waiting, begun = "", "", False
    for part in _parts(texts, piece_chars):
        if not begun and before:
            yield before
        begun = True
        waiting += part
        while len(waiting) >= piece_chars + margin_chars:
            found = _cut(tokenizer, context, waiting, len(waiting) - margin_chars)
            if found is None and len(waiting) < 4 * piece_chars:
                break
            cut, ids = found or (piece_chars, ids_behind(tokenizer, context, waiting[:piece_chars]))
            context, waiting = _context(tokenizer, context + waiting[:cut], ids, margin_chars), waiting[cut:]
            yield ids
    if waiting:
        yield ids_behind(tokenizer, context, waiting)
    if begun and after:
        yield after


def _parts(texts: Iterable[str], limit: int) -> Iterator[str]:
    """The texts in parts of 1 to `limit` characters."""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"an item of the stream is {type(text).__name__}: expected text; yield str, or pass ids")
        for start in range(0, len(text), limit):
            yield text[start : start + limit]


def _cut(tokenizer: Any, context: str, text: str, limit: int) -> tuple[int, list[int]] | None:
    """The last sure place to cut up to `limit` and the ids of the text before it; None without one."""
    whole = token_ids(tokenizer, context + text)
    start = token_ids(tokenizer, context) if context else []
    for cut in _places(text, limit, limit // 2):
        head = token_ids(tokenizer, context + text[:cut])
        if len(head) > len(start) and _begins(whole, head) and _begins(head, start):
            return cut, head[len(start) :]
    return None


def _context(tokenizer: Any, text: str, ids: list[int], margin: int) -> str:
    """The shortest end of `text`, of `margin` characters or more, that is tokenised as within `text` (`ids`)."""
    for start in _places(text, len(text) - margin, max(0, len(text) - 3 * margin)):
        tail = token_ids(tokenizer, text[start:])
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
