"""`everlong report`: one page, and tables for the docs, from the records of `everlong eval`."""

from __future__ import annotations

import typer

from everlong.cli.atomic_write import check_place, write_whole
from everlong.cli.console import Console
from everlong.cli.verbs.report import ReportOptions
from everlong.errors import ConfigError
from everlong.report.markdown import markdown as tables
from everlong.report.page import page
from everlong.report.runs import find_runs


def report(ctx: typer.Context, given: ReportOptions) -> None:
    """Write the page, and the tables."""
    console = Console.of(given.output)
    if given.markdown is not None and given.markdown.resolve() == given.out.resolve():
        raise ConfigError(f"--markdown {given.markdown}: is the place of the page too; give another")
    for place in (given.out, given.markdown):
        check_place(place, given.force)
    runs = find_runs(given.results)
    texts = {given.out: page(runs, given.title)} | ({given.markdown: tables(runs)} if given.markdown else {})
    for place, text in texts.items():
        write_whole(place, lambda draft, text=text: draft.write_text(text, encoding="utf-8"))
    counts = {"runs": len(runs), "records": sum(len(run.records) for run in runs)}
    if given.output.json:
        console.result({"wrote": [str(place) for place in texts]} | counts)
        return
    print(f"{counts['runs']} runs, {counts['records']} records")
    console.note(f"Wrote {', '.join(map(str, texts))}.\nOpen {given.out} in a browser.")
