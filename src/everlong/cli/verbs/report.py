"""What `everlong report` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Make one page of all runs: tables, curves, heat maps, cost.

    The page needs neither network nor JavaScript. --json prints the files that were written, and how many runs and
    records they tell of.
    """

    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="A folder of `everlong eval`, or one with several below it.")
    ]
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page: HTML, with nothing from elsewhere.")] = (
        Path("report.html")
    )
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Tables for the docs as well.")
    ] = None
    force: groups.Force = False
    title: Annotated[str, typer.Option("--title", help="What the page is called.")] = "everlong: evaluation"
    output: groups.Output
