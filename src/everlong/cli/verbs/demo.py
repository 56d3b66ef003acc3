"""What `everlong demo` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups

SINKS = 4
"""Tokens at the beginning that are kept, beside the window."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Find a hidden key again; read a long text three ways.

    A text with a pass key in it is read with block memory into a session on the disk, which a new process then opens
    and asks. Then CPython's own reference documentation, which every Python carries (pydoc_data.topics), is read:
    by dense as far as the model was trained, by window and sinks to the end with a bounded cache, side by side, one in
    each core. Writes the plot, the figures as JSON and the settings as YAML.
    """

    full: Annotated[bool, typer.Option("--full", help="Read the whole text, 113K tokens.")] = False
    tokens: Annotated[int, typer.Option(min=16, help="Tokens to read if not --full.")] = 12288
    cache: Annotated[int, typer.Option(min=SINKS + 1, help="Tokens that window and sinks keep.")] = 1024
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after the stream.")] = 200
    seed: Annotated[int | None, typer.Option(help="Hides the same key at the same place; drawn if not given.")] = None
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the plot and the figures go.")] = Path(".demo")
    model: groups.Model = "smollm2"
    threads: groups.Threads = None
    config: groups.Config = None
    output: groups.Output
