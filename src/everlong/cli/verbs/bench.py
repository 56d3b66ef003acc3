"""What `everlong bench` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure the speed of the methods beside other programs.

    Each row: what is measured, a method and a context; everlong and its peers take turns, round by round. Figures are
    medians by the wall clock and in CPU time of all threads; a ratio above 1 says that everlong is faster. Lists are
    written with commas: --context 128,8K,128K. --json prints one object: command, machine, left_out, and rows with
    what, method, context, unit, everlong and peers (wall, cpu, spread, cpu_spread, and of peers ratio and cpu_ratio
    with their quartiles).
    """

    what: Annotated[
        str,
        typer.Option(
            help="decode (one token at a time), read (chunks), choice (of blocks, in decoding), resume (open a kept "
            "session and read a token), or several."
        ),
    ] = "decode,read"
    context: Annotated[str, typer.Option(help="Tokens read before, one or more numbers.")] = "128,2048"
    cache: Annotated[
        str | None,
        typer.Option(help="In place of --context: tokens kept (sinks + window), which sets the methods' window."),
    ] = None
    method: Annotated[str, typer.Option("--method", help="dense, window, sinks, blocks, or several.")] = "sinks"
    option: groups.Fields = None
    peers: Annotated[
        str,
        typer.Option(
            help="transformers, llama.cpp, onnxruntime-genai, or several; none; auto: those that are installed and "
            "read this model."
        ),
    ] = "auto"
    peers_to: Annotated[
        str, typer.Option(help="The longest context of the peers, which read it anew for each run.")
    ] = "8192"
    chunk: groups.Chunk = 512
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of measurements for each row.")] = 20
    profile: Annotated[bool, typer.Option("--profile", help="Say what a decoded token's CPU time goes into.")] = False
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture (needs the extra everlong[report]).")
    ] = None
    force: groups.Force = False
    model: groups.ModelChoice
    hardware: groups.Hardware
    config: groups.Config = None
    output: groups.Output
