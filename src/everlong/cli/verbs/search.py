"""What `everlong search` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Show the passages of a session that hold some words.

    Only the tokenizer of the model is read: nothing is computed by the model, and nothing in the session changes. What
    a server had acknowledged when it was killed is found too. --json prints a list of objects: source, start, end,
    text, share, and of the best sentence name, page, chapter, heading and line.
    """

    words: Annotated[str, typer.Argument(metavar="WORDS", help="What to look for.")]
    kept: groups.KeptSession
    top: Annotated[int, typer.Option("--top", min=1, help="How many passages.")] = 5
    model: groups.Model = "smollm2"
    config: groups.Config = None
    output: groups.Output
