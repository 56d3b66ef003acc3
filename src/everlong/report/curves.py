"""Curves of a table: score, speed and memory over length, and the score along a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from everlong.report import figures
from everlong.report.cost import Cost
from everlong.report.tables import Record, Table, TableRow, grouped, pooled_perplexity

PLACES = 8
"""Places along a stream for which there is a point."""
_PARTS = 4
"""A sample with so many questions is a stream to look along."""


@dataclass(frozen=True)
class Point:
    """A figure at x tokens, with its interval where there is one."""

    x: float | int
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Curve:
    """One panel: a line for each method that has points."""

    title: str
    lines: dict[str, list[Point]]
    say: Callable[[float], str]
    """A figure on the y axis as text."""
    top: float | None = None
    """The end of the y axis, if it does not depend on the points; then it begins at 0."""
    from_zero: bool = False
    over: str = "length, tokens"
    along: bool = False
    """Whether x is a place in a stream, and not a length."""


def curves(table: Table) -> list[Curve]:
    """The panels of a table that have a line of two points or more."""
    along = _by_bins(table) or _by_place(table)
    found = [_score(table), *([along] if along else []), _speed(table), _memory(table)]
    return [curve for curve in found if any(len(points) > 1 for points in curve.lines.values())]


def _score(table: Table) -> Curve:
    return _judged(table, "over length", "length, tokens", lambda row: row.by_length())


def _judged(
    table: Table, where: str, over: str, points: Callable[[TableRow], dict[int, list[Record]]], along: bool = False
) -> Curve:
    """The score of groups of records."""
    lines = {}
    for row in table.rows:
        cells = {x: table.cell(records) for x, records in points(row).items()}
        lines[row.label] = [
            Point(x, cell.value, cell.low, cell.high) for x, cell in cells.items() if cell.value is not None
        ]
    title, top = (f"Perplexity {where}", None) if table.perplexity else (f"Score {where}, %", 1.0)
    return Curve(title, lines, _said(table), top, over=over, along=along)


def _said(table: Table) -> Callable[[float], str]:
    """A tick of the score's axis as text."""
    return (lambda y: figures.number(y, True)) if table.perplexity else (lambda y: f"{100 * y:.0f}")


def _by_bins(table: Table) -> Curve | None:
    """Perplexity by position, from the bins among the facts of the records."""
    lines: dict[str, list[Point]] = {}
    for row in table.rows:
        bins = [b for r in row.records for b in r["facts"].get("bins") or () if isinstance(b, dict) and b.get("tokens")]
        ends = sorted(grouped(bins, lambda b: b["end"]).items())
        pooled = [(end, pooled_perplexity([_as_record(b) for b in found])[0]) for end, found in ends]
        lines[row.label] = [Point(end, y) for end, y in pooled if y is not None]
    if not table.perplexity or not any(lines.values()):
        return None
    return Curve("Perplexity by position", lines, _said(table), over="position, tokens", along=True)


def _as_record(found: dict[str, Any]) -> Record:
    """A bin of positions as if it were a record."""
    return {"score": 1 / found["perplexity"], "facts": {"tokens": found["tokens"]}}


def _by_place(table: Table) -> Curve | None:
    """The score along streams, where samples have many questions."""
    judged = [r for row in table.rows for r in row.records if r["score"] is not None]
    samples = [found for row in table.rows for found in grouped(row.records, lambda r: r["id"]).values()]
    if not judged or max(map(len, samples)) < _PARTS:
        return None
    step = max(r["prompt_tokens"] for r in judged) / PLACES

    def places(row: TableRow) -> dict[int, list[Record]]:
        ok = [r for r in row.records if r["score"] is not None]
        found = grouped(ok, lambda r: min(PLACES - 1, int(r["prompt_tokens"] / step)) if step else 0)
        return {round((place + 0.5) * step): records for place, records in sorted(found.items())}

    return _judged(table, "along the stream", "tokens read before the answer", places, along=True)


def _speed(table: Table) -> Curve:
    lines = {row.label: _costs(row, lambda cost: cost.tokens_per_s) for row in table.rows}
    return Curve("Tokens read a second", lines, figures.count, from_zero=True)


def _memory(table: Table) -> Curve:
    lines = {row.label: _costs(row, lambda cost: float(sum(cost.held_bytes.values()))) for row in table.rows}
    return Curve("Memory held", lines, figures.bytes_text, from_zero=True)


def _costs(row: TableRow, take: Callable[[Cost], float | None]) -> list[Point]:
    found: list[tuple[int, Cost | None]] = [(x, Cost.of(records)) for x, records in row.by_length().items()]
    figured: Sequence[tuple[int, float | None]] = [(x, take(cost)) for x, cost in found if cost is not None]
    return [Point(x, y) for x, y in figured if y is not None]
