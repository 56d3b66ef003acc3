"""The tables of a report as Markdown, for the docs."""

from __future__ import annotations

from collections.abc import Sequence

from everlong.report import figures
from everlong.report.cost import cost_table
from everlong.report.page import about, facts_of, settings_of
from everlong.report.runs import Run
from everlong.report.scores import overall
from everlong.report.tables import Table, TableCell, tables


def markdown(runs: Sequence[Run]) -> str:
    """A section for each task, with its scores and its cost, and one on the runs."""
    sections = [_task(table) for table in tables(runs)]
    return "\n".join([*sections, "## Runs\n", *(_run(run) for run in runs)])


def _task(table: Table) -> str:
    settings = [f"{row.label}: {settings_of(row)}" for row in table.rows if settings_of(row)]
    unit = "Perplexity (less is better)" if table.perplexity else "Percent"
    parts = [f"## {_plain(table.title)}", _plain(about(table)), _scores(table)]
    parts.append(f"{unit}, with n and the 95 % interval. {_plain('; '.join(settings))}".strip())
    names, rows = cost_table(table)
    if rows:
        lines = [[label if n == 0 else "", *line] for label, own in rows.items() for n, line in enumerate(own)]
        parts.append(_table(["method", *names], lines))
    return "\n\n".join(parts) + "\n"


def _scores(table: Table) -> str:
    places = table.places
    names = [" ".join(filter(None, (part, figures.tokens(length)))) or "all" for part, length in places]
    lines = []
    for row in table.rows:
        found = row.by_place()
        cells = [_cell(table.cell(found[p]), table.perplexity) if p in found else figures.NOTHING for p in places]
        mean = [figures.number(overall(table, row), table.perplexity)] if len(places) > 1 else []
        lines.append([row.label, *cells, *mean])
    return _table(["method", *names, *(["mean"] if len(places) > 1 else [])], lines)


def _cell(cell: TableCell, perplexity: bool) -> str:
    text = figures.value(cell, perplexity)
    if cell.value is None:
        return text
    words = [f"n {cell.n}", figures.between(cell, perplexity), figures.missing(cell)]
    return f"{text} ({', '.join(filter(None, words))})"


def _run(run: Run) -> str:
    facts = [f"{name} {text}" for name, text in facts_of(run).items()]
    return f"- {_plain(run.name)}: {_plain('; '.join(facts))}"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures."""
    head = f"| {' | '.join(map(_plain, names))} |"
    rule = f"|{'|'.join(['---', *('---:' for _ in names[1:])])}|"
    return "\n".join([head, rule, *(f"| {' | '.join(map(_plain, line))} |" for line in lines)])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
