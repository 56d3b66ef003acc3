"""Figures as text: scores in percent, perplexities, tokens, bytes, seconds; a dash for what is not known."""

from __future__ import annotations

import math
from typing import Any

from everlong.report.tables import TableCell

NOTHING = "–"


def value(cell: TableCell, perplexity: bool) -> str:
    """The mean of a cell, or why there is none."""
    if cell.value is not None:
        return number(cell.value, perplexity)
    if cell.too_long:
        return "too long"
    return "cannot" if cell.cannot else "not judged"


def number(x: float | int | None, perplexity: bool) -> str:
    """A score 0..1 in percent, or a perplexity with three digits."""
    if x is None or not math.isfinite(x):
        return NOTHING
    if not perplexity:
        return f"{100 * x:.1f}"
    return f"{x:.2f}" if x < 100 else f"{x:,.0f}"


def between(cell: TableCell, perplexity: bool) -> str:
    """The interval of a cell; empty where there is none."""
    if cell.low is None or cell.high is None:
        return ""
    return f"{number(cell.low, perplexity)}–{number(cell.high, perplexity)}"


def missing(cell: TableCell) -> str:
    """How many samples beside those that were judged were not; empty where there are none, or nothing else."""
    found = [f"{n} {why}" for n, why in ((cell.too_long, "too long"), (cell.cannot, "cannot")) if n]
    return " ".join(found) if cell.n or (cell.too_long and cell.cannot) else ""


def tokens(n: int | None) -> str:
    """A number of tokens as the command line takes it: 400, 7.5K, 32K, 1M."""
    if n is None:
        return ""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if n >= size and (n * 4) % size == 0:
            return f"{n / size:g}{unit}"
    return f"{n:,}"


def bytes_text(n: float | int | None) -> str:
    """Bytes in the unit that leaves three digits."""
    if n is None:
        return NOTHING
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.{0 if n >= 100 * size else 1}f} {unit}"
    return f"{n:.0f} B" if n else "0"


def count(x: float | int | None) -> str:
    """A number with about three digits."""
    if x is None or not math.isfinite(x):
        return NOTHING
    return f"{x:,.0f}" if x >= 100 or x == int(x) else f"{x:.1f}"


def settings(fields: dict[str, Any]) -> str:
    """Settings as `name=value`, with commas."""
    return ", ".join(f"{name}={text}" for name, text in fields.items())
