"""`everlong report`: one page, and tables for the docs, from the records of `everlong eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import options


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A folder of `everlong eval`, or one with several below it.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The page: HTML, with nothing from elsewhere.")
    ] = Path("report.html"),
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Tables for the docs as well.")
    ] = None,
    force: options.Force = False,
    title: Annotated[str, typer.Option("--title", help="What the page is called.")] = "everlong: evaluation",
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make one page of all runs: tables, curves, heat maps, cost.

    The page needs neither network nor JavaScript. --json prints the files that were written, and how many runs and
    records they tell of.
    """
    from everlong.cli.atomic_write import check_place, write_whole
    from everlong.cli.console import Console
    from everlong.errors import ConfigError

    console = Console(quiet, json)
    if markdown is not None and markdown.resolve() == out.resolve():
        raise ConfigError(f"--markdown {markdown}: is the place of the page too; give another")
    for place in (out, markdown):
        check_place(place, force)
    from everlong.report.markdown import markdown as tables
    from everlong.report.page import page
    from everlong.report.runs import find_runs

    runs = find_runs(results)
    texts = {out: page(runs, title)} | ({markdown: tables(runs)} if markdown else {})
    for place, text in texts.items():
        write_whole(place, lambda draft, text=text: draft.write_text(text, encoding="utf-8"))
    counts = {"runs": len(runs), "records": sum(len(run.records) for run in runs)}
    if json:
        console.result({"wrote": [str(place) for place in texts]} | counts)
        return
    print(f"{counts['runs']} runs, {counts['records']} records")
    console.note(f"Wrote {', '.join(map(str, texts))}.\nOpen {out} in a browser.")
