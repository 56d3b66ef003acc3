"""Quotations in an answer, looked up in what was read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from everlong.session.citations import is_read_text, spot
from everlong.text.source_names import short_name
from everlong.text.transcript import Source, Transcript

LEAST_WORDS = 3
"""A quotation of fewer words is a name or a term, and is not looked up."""
_QUOTED = re.compile(
    r"\"([^\"]{4,2000})\"|“([^“”]{4,2000})[”“]|„([^„“”]{4,2000})[“”]|«([^«»]{4,2000})»|‘([^‘]{4,2000}?)’(?!\w)"
)
_GAP = re.compile(r"\s*(?:\[?…\]?|\[?\.\.\.\]?)\s*")
_PIECE = re.compile(r"\w+|[-–—‐‑]+|[^\w\s]")
_ALIKE = {
    **dict.fromkeys('"“”„«»', '["“”„«»]'),
    **dict.fromkeys("'’‘‚`", "['’‘‚`]"),
    **dict.fromkeys("-–—‐‑", "[-–—‐‑]+"),
}
"""Characters that are taken for each other."""
_WINDOW_TOKENS = 4096


@dataclass(frozen=True)
class Quotation:
    """What an answer quotes: characters `start` .. `end - 1` of a source that was read, or `found` nowhere in it."""

    text: str
    found: bool
    source: str | None = None
    name: str | None = None
    start: int | None = None
    end: int | None = None
    page: int | None = None
    chapter: str | None = None
    heading: str | None = None
    line: int | None = None


def quotations(transcript: Transcript, answer: str, question: str = "") -> list[Quotation]:
    """The quotations of an answer, in order, each once; those that repeat the question are left out.

    Straight or curly marks, capitals and line breaks make no difference; of "one … two" both are to be found, in this
    order, in one source.
    """
    said = dict.fromkeys(next(filter(None, found.groups())).strip() for found in _QUOTED.finditer(answer))
    checked = [text for text in said if len(re.findall(r"\w+", text)) >= LEAST_WORDS]
    return [_checked(transcript, text) for text in checked if not _pattern(text).search(question)]


def _checked(transcript: Transcript, text: str) -> Quotation:
    parts = [_pattern(part) for part in _GAP.split(text) if re.search(r"\w", part)]
    for source in transcript.sources:
        if is_read_text(source) and (found := _find(transcript, source, parts)) is not None:
            where = spot(transcript, source, found[0])
            name = short_name(source.name, (s.name for s in transcript.sources))
            place = {"page": where.page, "chapter": where.chapter, "heading": where.heading, "line": where.line}
            return Quotation(text, True, source.name, name, *found, **place)
    return Quotation(text, False)


def _pattern(text: str) -> re.Pattern[str]:
    """What finds a text however it is spaced and marked; the last comma or stop may be the answer's own."""
    pieces = _PIECE.findall(text.rstrip(" ,.;:!?"))
    spelt = [_ALIKE.get(piece[0], re.escape(piece)) for piece in pieces]
    joined = "".join(
        piece if not n else (r"\s+" if pieces[n - 1][-1].isalnum() and pieces[n][0].isalnum() else r"\s*") + piece
        for n, piece in enumerate(spelt)
    )
    edge = r"(?<!\w)" if pieces and pieces[0][0].isalnum() else ""
    return re.compile(edge + joined + (r"(?!\w)" if pieces and pieces[-1][-1].isalnum() else ""), re.IGNORECASE)


def _find(transcript: Transcript, source: Source, parts: list[re.Pattern[str]]) -> tuple[int, int] | None:
    """The characters of a source from the first of the parts to the last; None where they are not there in order."""
    spans: list[tuple[int, int]] = []
    for start, text in _windows(transcript, source):
        at = max(0, spans[-1][1] - start) if spans else 0
        while len(spans) < len(parts) and (found := parts[len(spans)].search(text, at)):
            at = found.end()
            spans.append((start + found.start(), start + at))
        if len(spans) == len(parts):
            return spans[0][0], spans[-1][1]
    return None


def _windows(transcript: Transcript, source: Source) -> Iterator[tuple[int, str]]:
    """The text of a source in pieces that overlap, each behind the characters before it."""
    first, after = transcript.bounds(source)
    for begin in range(first, after, _WINDOW_TOKENS // 2):
        for passage in transcript.passages(begin, min(after, begin + _WINDOW_TOKENS)):
            yield passage.start, passage.text
        if begin + _WINDOW_TOKENS >= after:
            return
