"""What `everlong ask` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Ask a kept session; it stays as it is unless --keep is given.

    --json prints one object: text, seconds_to_open (the model being loaded and attached), seconds_to_first_token,
    citations (source, start, end, text, mass, sentence, name, page, chapter, heading, line), quotations (text, found,
    and where), recall (what came back and by which voter) and the memory report. A line is that of the file as it was
    read; PDF files have pages instead. What the answer quotes is looked up in what was read, and it is said where it
    stands, or that it does not.
    """

    question: Annotated[str, typer.Argument(metavar="TEXT", help="What to ask.")]
    kept: groups.KeptSession
    raw: Annotated[bool, typer.Option("--raw", help="Take the text as it is, without the chat template.")] = False
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="An image that the question is about.")
    ] = None
    again: groups.Again = None
    cite: Annotated[bool, typer.Option("--cite", help="Show the passages that came back for it.")] = False
    top: Annotated[int, typer.Option("--top", min=1, help="How many passages.")] = 3
    encoder: groups.Encoder = None
    host_budget: groups.HostBudget = None
    when_full: groups.WhenFull = "refuse"
    allow_special: groups.AllowSpecial = False
    keep: Annotated[bool, typer.Option("--keep", help="Let the session remember question and answer.")] = False
    model: groups.ModelChoice
    sampling: groups.SamplingOptions
    hardware: groups.Hardware
    config: groups.Config = None
    report: groups.Report = False
    output: groups.Output
