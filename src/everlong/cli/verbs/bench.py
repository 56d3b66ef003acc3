"""What `everlong bench` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure the methods beside plain transformers.

    Each row is the median over pairs: the method, then the stock model with a DynamicCache of as many tokens.
    Lists are written with commas: --cache 256,4096. --json prints the rows: what, method, cache, ms_per_token or
    tokens_per_s, baseline (transformers' figure), ratio (above 1: better than the baseline) and the spreads.
    """

    what: Annotated[str, typer.Option(help="decode (one token at a time), read (chunks), or both.")] = "decode,read"
    cache: Annotated[str, typer.Option(help="Tokens kept (sinks + window), one or more numbers.")] = "256,4096"
    method: Annotated[str, typer.Option("--method", help="dense, window, sinks, or several of them.")] = "sinks"
    option: groups.Fields = None
    chunk: groups.Chunk = 512
    repeats: Annotated[int, typer.Option(min=1, help="Pairs of measurements for each row.")] = 20
    model: groups.ModelChoice
    hardware: groups.Hardware
    config: groups.Config = None
    output: groups.Output
