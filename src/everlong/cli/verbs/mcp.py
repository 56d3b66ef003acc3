"""What `everlong mcp` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups

_REMEMBERS = groups.MethodChoice(method="blocks")


@dataclass(frozen=True, kw_only=True)
class McpOptions:
    """Give an agent the memory: an MCP server on stdin and stdout.

    Its tools are read, ask, search, forget and sessions, over the kept sessions of a store. A client starts it by
    itself (docs/mcp.md has the lines for its settings). The model is loaded when a tool first needs it: that of the
    session where none is named. Needs the extra everlong[mcp].
    """

    store: groups.Store = None
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="FOLDER", help="Only files in it are read; may be repeated. Any if not given."),
    ] = None
    model: groups.ModelChoice
    method: groups.MethodChoice = _REMEMBERS
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: groups.Config = None
    debug: groups.Debug = False
