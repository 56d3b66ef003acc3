"""Chapters, headings and pages of a text, found while it streams by.

In plain text: "CHAPTER III", "Chapter 3. Title", "BOOK TWO", a numbered heading or a Roman numeral alone between blank
lines, and the # headings of Markdown. What other files mark as headings or pages, their extractors say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["chapter", "heading", "page"]
LONGEST_TITLE = 100
"""Characters of a line that can be a heading, at most."""
_LOOKED_AT = 4 * LONGEST_TITLE
"""Characters of a line that are looked at, white space before a heading included."""
PAGE_LEVEL = 9
"""The level of pages, which end where the next page begins and nowhere else."""
DIVISIONS = {
    **dict.fromkeys(("volume", "book", "part", "act"), 1),
    **dict.fromkeys(("chapter", "canto", "stave", "letter", "scene"), 2),
    "section": 3,
}
"""What divisions of a text are called, and their level."""
_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen")
_TEENS = ("fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: n for n, word in enumerate((*_ONES, *_TEENS), 1)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_WORD = rf"(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_ONES[:9])})\b)?|{'|'.join(sorted(_SMALL, key=len, reverse=True))}"
NUMBER = rf"(?:\d{{1,4}}(?:\.\d{{1,3}}){{0,3}}|[ivxlc]{{1,8}}|{_WORD})\b"
"""A number in digits (also 2.3), in Roman numerals up to 399, or in words up to ninety-nine."""
_DIVISION = re.compile(rf"({'|'.join(DIVISIONS)})\s+({NUMBER})(\s*[.:—–-]+\s*|\s+|$)(.*)", re.IGNORECASE)
_NUMBERED = re.compile(r"(\d{1,3}(?:\.\d{1,3}){0,3})[.)]?\s+(\S.*)")
_ROMAN_ALONE = re.compile(r"([IVXLC]{1,8})(?:\.?|(?:\.\s+|\s\s+)(\S.*))")
_MARKDOWN = re.compile(r"(#{1,6})\s+(\S.*?)\s*#*")
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


@dataclass(frozen=True)
class Place:
    """A part of a source that has a name: it begins at the character `start`.

    It ends where the next of its kind begins that is not below it (`level`: 1 is the highest; pages and the others do
    not end each other).
    """

    kind: Kind
    title: str
    start: int
    level: int


@dataclass(frozen=True)
class _Candidate:
    """A line that looks like a heading, until the line after it has been seen."""

    place: Place
    bare: bool
    sure: bool


def number_of(text: str) -> tuple[int, ...] | None:
    """A number in digits, Roman numerals or words; None for anything else.

    >>> number_of("XIV"), number_of("2.3"), number_of("twenty-one"), number_of("mix")
    ((14,), (2, 3), (21,), None)
    """
    text = text.lower()
    if re.fullmatch(r"\d+(\.\d+)*", text):
        return tuple(int(part) for part in text.split("."))
    parts = re.split("[- ]", text)
    if all(part in _SMALL for part in parts):
        return (sum(_SMALL[part] for part in parts),)
    if not re.fullmatch("c{0,3}(xc|xl|l?x{0,3})(ix|iv|v?i{0,3})", text) or not text:
        return None
    values = [_ROMAN[letter] for letter in text]
    return (sum(v if v >= after else -v for v, after in zip(values, [*values[1:], 0], strict=True)),)


def end_of(places: Iterable[Place], place: Place) -> int | None:
    """The character after the last of `place`; None where it goes to the end of its source."""
    paged = place.kind == "page"
    ends = [p.start for p in places if p.start > place.start and (p.kind == "page") == paged and p.level <= place.level]
    return min(ends, default=None)


def heading(title: str, start: int, level: int) -> Place:
    """The place of something that is marked as a heading: a chapter where it says so."""
    title = " ".join(title.split())[:LONGEST_TITLE]
    said = _DIVISION.match(title)
    return Place("chapter" if said and number_of(said[2]) else "heading", title, start, level)


def found_in(texts: Iterable[str], places: list[Place], markdown: bool = True) -> Iterator[str]:
    """The same texts; what headings they hold is added to `places` as they go by.

    With `markdown` lines that begin with # are headings, outside of fenced code.
    """
    finder = _Finder(places, markdown)
    for text in texts:
        finder.add(text)
        yield text
    finder.end()


class _Finder:
    """Looks at a text line by line, with one line held back."""

    def __init__(self, places: list[Place], markdown: bool) -> None:
        self._places = places
        self._markdown = markdown
        self._line = ""
        self._length = 0
        self._start = 0
        self._after_blank = True
        self._fenced = False
        self._candidate: _Candidate | None = None
        self._last: dict[str, tuple[int, ...]] = {}

    def add(self, text: str) -> None:
        """Take the next characters of the text."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._end_line(line)
        # Of a line without end no more is kept than tells that it is no heading.
        self._line = (self._line + rest)[:_LOOKED_AT]
        self._length += len(rest)

    def end(self) -> None:
        """The text has ended."""
        self._end_line("")
        self._settle("")

    def _end_line(self, rest: str) -> None:
        whole = (self._line + rest)[:_LOOKED_AT]
        length = self._length + len(rest)
        line = whole.strip()
        self._settle(line)
        if line.startswith("```"):
            self._fenced = not self._fenced
        if line and len(line) <= LONGEST_TITLE and length <= _LOOKED_AT:
            self._look(line, self._start + len(whole) - len(whole.lstrip()))
        self._after_blank = not line
        self._start += length + 1
        self._line = ""
        self._length = 0

    def _settle(self, following: str) -> None:
        """Decide on the line before, now that the one after it is known."""
        candidate = self._candidate
        self._candidate = None
        if candidate is None:
            return
        place = candidate.place
        titled = 0 < len(following) <= LONGEST_TITLE and _is_title(following) and not _DIVISION.match(following)
        if candidate.bare and titled:
            place = replace(place, title=f"{place.title} {following}")
        if candidate.sure or candidate.bare or not following:
            self._places.append(place)

    def _look(self, line: str, start: int) -> None:
        if self._markdown and not self._fenced and (marked := _MARKDOWN.fullmatch(line)):
            self._places.append(heading(marked[2], start, len(marked[1])))
        elif self._after_blank and not self._fenced:
            self._candidate = self._division(line, start) or self._numbered(line, start)

    def _division(self, line: str, start: int) -> _Candidate | None:
        """CHAPTER III, Book Two: The Sea."""
        found = _DIVISION.fullmatch(line)
        if found is None or not line[0].isupper() or number_of(found[2]) is None:
            return None
        word = found[1]
        rest = found[4]
        separated = bool(found[3].strip())
        if not (rest[:1].isupper() or not rest[:1].isalpha() if separated else _is_title(rest)):
            return None
        place = Place("chapter", line, start, DIVISIONS[word.lower()])
        return _Candidate(place, bare=not rest, sure=word.isupper())

    def _numbered(self, line: str, start: int) -> _Candidate | None:
        """2.3 Results, or IV alone; only as the first or the next of its row, because lists and pages have numbers."""
        found = _NUMBERED.fullmatch(line)
        roman = None if found else _ROMAN_ALONE.fullmatch(line)
        match = found or roman
        number = number_of(match[1]) if match else None
        if match is None or number is None or not _is_title(match[2] or "", loose=found is not None):
            return None
        row = f"roman {len(number)}" if roman else f"{len(number)}"
        before = self._last.get(row, ())
        if number[-1] != 1 and number != (*before[:-1], *(n + 1 for n in before[-1:])):
            return None
        self._last[row] = number
        kind: Kind = "chapter" if roman else "heading"
        return _Candidate(Place(kind, line, start, 1 + len(number)), bare=False, sure=False)


def _is_title(text: str, loose: bool = False) -> bool:
    """Whether a line is written as titles are: its longer words begin with capitals (`loose`: its first word does)."""
    words = re.findall(r"[^\W\d_][\w'’]*", text)
    if text.rstrip().endswith((",", ";")) or len(words) > 15:
        return False
    if loose:
        return bool(words) and words[0][0].isupper() and not text.rstrip().endswith((".", ":", "!"))
    return all(word[0].isupper() for word in words if len(word) > 3) and (not words or words[0][0].isupper())
