"""What `everlong generate` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Write what comes after a text, token by token.

    The text is taken as it is; --chat puts it through the model's template. --json prints one object: text,
    token_ids, seconds_per_token (median) and the memory report. With --prompts each line is written on by itself, many
    in one forward of the model, and --json prints one such object a line, with number and prompt (or error).
    """

    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="The text to go on from.")] = None
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="A file with that text, of any length; - for stdin.")
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file of texts, one a line, all written on together; - for stdin."),
    ] = None
    batch: Annotated[int, typer.Option("--batch", min=1, help="With --prompts: how many at once.")] = 8
    encoding: groups.Encoding = None
    template: Annotated[
        bool, typer.Option("--chat", help="Put the text as a question, through the model's chat template.")
    ] = False
    allow_special: groups.AllowSpecial = False
    model: groups.ModelChoice
    method: groups.MethodChoice
    sampling: groups.SamplingOptions
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: groups.Config = None
    output: groups.Output
