"""What `everlong serve` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import complete, groups

_REMEMBERS = groups.MethodChoice(method="blocks")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a model over HTTP, as an OpenAI API.

    Its context never runs out. One line with its address says when it is ready; clients of OpenAI's API take that
    address with /v1 behind it. The request field "session" (or the header x-session-id) names a conversation that is
    kept in the store. SIGTERM or Ctrl-C ends the answers, keeps the sessions and exits 0. See docs/server.md; needs the
    extra everlong[serve].
    """

    store: groups.Store = None
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", "-p", help="The port; 0 takes one that is free.")] = 8000
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="A file of API keys, one a line; one of them is needed."),
    ] = None
    memory_bytes: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="BYTES", help="What open sessions may take in memory; half of it if not given."
        ),
    ] = None
    max_gap: Annotated[
        float,
        typer.Option(
            "--max-gap", help="How many times longer than alone an answer's token may take while others read."
        ),
    ] = 4.0
    model: groups.Model = complete.DEFAULT_MODEL
    weights: groups.Weights = "full"
    method: groups.MethodChoice = _REMEMBERS
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: groups.Config = None
    quiet: groups.Quiet = False
    debug: groups.Debug = False
