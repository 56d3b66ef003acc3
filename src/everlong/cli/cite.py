"""Citations and quotations as lines that a person reads."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence

from everlong.session.quotations import Quotation
from everlong.text.transcript import Citation

_INDENT = " " * 8
_SHOWN = 60
"""Characters of a quotation that are repeated."""


def citation_lines(citations: Sequence[Citation]) -> str:
    """Each citation: its share of the vote, where it stands, and the whole sentence below."""
    if not citations:
        return "  No passage stands out."
    width = max(40, min(100, shutil.get_terminal_size().columns))
    found = []
    for cited in citations:
        said = " ".join((cited.sentence or cited.text).split())
        shown = textwrap.fill(said, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)
        found.append(f"  [{cited.mass:.0%}] {where(cited)}\n{shown}")
    return "\n".join(found)


def quotation_lines(quotations: Iterable[Quotation]) -> list[str]:
    """For each quotation where it stands in what was read, or that it does not."""
    return [
        f'the quotation "{_short(q.text)}" ' + (f"is in {where(q)}" if q.found else "is not in what was read")
        for q in quotations
    ]


def where(place: Citation | Quotation) -> str:
    """A place as people cite it: source, page, chapter and heading, line.

    Characters where there is nothing better.
    """
    under = [title for title in (place.chapter, place.heading) if title]
    parts = [place.name or str(place.source)]
    parts += [] if place.page is None else [f"page {place.page}"]
    parts += [f"“{title}”" for title in under]
    parts += [] if place.line is None else [f"line {place.line:,}"]
    if len(parts) == 1:
        parts.append(f"characters {place.start:,} to {place.end:,}")
    return ", ".join(parts)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
