"""The encoding of a text: by its mark (BOM), as UTF-8 where it is that, else as a detector says."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from encodings.aliases import aliases
from typing import Literal

import chardet

from everlong.errors import ConfigError, nearest

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""What a file may begin with; UTF-32 stands before UTF-16, whose mark it begins with."""
_WIDER = {"shift_jis": "cp932", "big5": "cp950", "euc-kr": "cp949", "gb2312": "gb18030", "iso-8859-1": "cp1252"}
"""Encodings of which files in the wild use more characters than their standard has."""
_FALLBACK = "cp1252"
_DECIDED = 100_000
"""So many bytes beyond ASCII are enough to tell whether a text is UTF-8."""
_SAMPLE_BYTES = 262_144
_INVALID = re.compile("[\udc80-\udcff]+")
_HEADER_BYTES = 4096
_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]*?(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)


@dataclass(frozen=True)
class Charset:
    """A codec of Python's, and how it was found."""

    codec: str
    how: Literal["given", "mark", "declared", "utf-8", "guessed"]

    @property
    def is_wide(self) -> bool:
        """Whether a letter of ASCII has more than one byte."""
        return self.codec.startswith(("utf-16", "utf-32"))

    @property
    def told(self) -> str | None:
        """What is to be said of it: nothing of UTF-8, and of what was asked for."""
        if self.how == "guessed":
            return f"is not UTF-8; read as {self.codec}, a guess (--encoding NAME overrules it)"
        return f"read as {self.codec}" if self.how in ("mark", "declared") and self.codec != "utf-8" else None


def charset_of(blocks: Iterable[bytes], given: str | None = None) -> Charset:
    """The charset of a text that comes in blocks, the first of which holds its mark, if it has one."""
    if given is not None:
        return Charset(_checked(given), "given")
    iterator = iter(blocks)
    first = next(iterator, b"")
    for mark, codec in MARKS.items():
        if first.startswith(mark):
            return Charset(codec, "mark")
    if wide := _unmarked_wide(first):
        return Charset(wide, "guessed")
    return _narrow(block for part in ([first], iterator) for block in part)


def charset_of_markup(content: bytes, given: str | None = None) -> Charset:
    """The same of HTML and XML, which may say it themselves."""
    declared = _DECLARED.search(content[:_HEADER_BYTES])
    if given is None and declared and not content.startswith(tuple(MARKS)):
        name = declared[1].decode("ascii", "replace").lower()
        try:
            codec = _WIDER.get(name, name)
            content.decode(codec)
            return Charset(codec, "declared")
        except (LookupError, UnicodeError):
            pass
    return charset_of([content], given)


def _narrow(blocks: Iterable[bytes]) -> Charset:
    """UTF-8 where most of what is not ASCII is that, else what the detector says."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    valid = 0
    invalid = 0
    sample = bytearray()
    tail = ""
    for block in (part for whole in (blocks, (None,)) for part in whole):
        # None stands for the end: what the decoder still holds was cut off there.
        if block is not None and block.isascii() and not decoder.getstate()[0]:
            tail = ""
            continue
        text = decoder.decode(block or b"", final=block is None)
        wrong = sum(map(len, _INVALID.findall(text)))
        invalid += wrong
        valid += len(text.encode("utf-8", "ignore")) - len(text.encode("ascii", "ignore"))
        tail = text or tail
        if block is not None and len(sample) < _SAMPLE_BYTES:
            sample += block
        if valid + invalid >= _DECIDED:
            break
    # In GBK, Big5 and EUC up to four bytes of ten look like UTF-8 by chance.
    if valid >= 2 * invalid or _is_cut_off(tail, invalid):
        return Charset("utf-8", "utf-8")
    return Charset(_detected(bytes(sample[:_SAMPLE_BYTES])), "guessed")


def _is_cut_off(tail: str, invalid: int) -> bool:
    """Whether all that is no UTF-8 is the beginning of a character at the very end, of two bytes or more."""
    end = _INVALID.search(tail)
    if end is None or end.end() != len(tail) or len(end[0]) != invalid or invalid < 2:
        return False
    try:
        end[0].encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def _unmarked_wide(first: bytes) -> str | None:
    """UTF-16 without a mark, where nearly every second byte is zero."""
    half = len(first) // 2
    if half < 2:
        return None
    even = first[0::2].count(0)
    odd = first[1::2].count(0)
    if even == 0 and odd > half // 2:
        return "utf-16-le"
    return "utf-16-be" if odd == 0 and even > half // 2 else None


def _detected(sample: bytes) -> str:
    name = (chardet.detect(sample)["encoding"] or _FALLBACK).lower()
    if name in ("ascii", "utf-8", "utf-8-sig"):
        return _FALLBACK
    codec = _WIDER.get(name, name)
    try:
        return codecs.lookup(codec).name
    except LookupError:
        return _FALLBACK


def _checked(name: str) -> str:
    """The codec of this name; ConfigError for what is none for text."""
    try:
        b"a".decode(name, "replace")
        return codecs.lookup(name).name
    except (LookupError, UnicodeError, ValueError):
        raise ConfigError(f"--encoding {name}: no encoding of text; {_nearest(name, aliases.values())}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    """The nearest encodings, or some that are in use."""
    hint = nearest(name.lower().replace("-", "_"), known).partition("known: ")[0]
    return f"{hint}for example utf-8, utf-16, cp1252, gb18030, shift_jis, big5"
