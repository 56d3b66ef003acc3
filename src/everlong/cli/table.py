"""Rows of facts as lines with a header, their columns aligned."""

from __future__ import annotations

import time
from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """The header and the rows as lines; the columns that `right` names end at the same place, others begin there.

    >>> aligned(("NAME", "TOKENS"), [("a", "1,234"), ("notes", "7")], right=["TOKENS"])
    ['NAME   TOKENS', 'a       1,234', 'notes       7']
    """
    table = [header, *rows]
    widths = [max(len(row[n]) for row in table) for n in range(len(header))]
    return [
        "  ".join(_cell(*column, right) for column in zip(row, widths, header, strict=True)).rstrip() for row in table
    ]


def when(seconds: float) -> str:
    """A time since the epoch as a date and a time of day, here.

    >>> len(when(0.0))
    16
    """
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _cell(text: str, width: int, name: str, right: Sequence[str]) -> str:
    return text.rjust(width) if name in right else text.ljust(width)
