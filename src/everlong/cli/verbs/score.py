"""What `everlong score` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Read a text as a stream and print its perplexity.

    Memory does not grow with the text. --json prints one object: tokens, perplexity, nll_per_token (mean nats),
    seconds, tokens_per_s, peak_rss_bytes (while reading, the model included), rss_by_tokens,
    perplexity_by_position and the memory report.
    """

    file: Annotated[str, typer.Argument(metavar="FILE", help="A text file, or - for stdin.")]
    model: groups.ModelChoice
    method: groups.MethodChoice
    max_tokens: Annotated[int | None, typer.Option(min=2, help="Stop after so many tokens.")] = None
    chunk: groups.Chunk = 512
    allow_special: groups.AllowSpecial = False
    encoding: groups.Encoding = None
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a table, one row per 1,024 tokens.")] = None
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture (needs the extra everlong[report]).")
    ] = None
    force: groups.Force = False
    hardware: groups.Hardware
    config: groups.Config = None
    output: groups.Output
