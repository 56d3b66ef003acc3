"""`everlong mcp`: the kept sessions as tools of an agent."""

from __future__ import annotations

import importlib.util
import sys

import typer

from everlong.cli import options
from everlong.cli.console import Console
from everlong.cli.groups import Hardware, ModelChoice
from everlong.cli.model_setup import load_model, prepare
from everlong.cli.verbs.mcp import McpOptions
from everlong.environment import home
from everlong.errors import CapabilityError, InputError
from everlong.models.load import Loaded


def mcp(ctx: typer.Context, given: McpOptions) -> None:
    """Answer a client on stdin and stdout until it closes them."""
    if importlib.util.find_spec("mcp") is None:
        raise CapabilityError("mcp: needs packages that are not here; pip install 'everlong[mcp]'")
    from everlong.cli.mcp_tools import LibraryTools, server

    for root in given.root or ():
        if not root.is_dir():
            raise InputError(f"--root {root}: no such folder; give one that exists")
    console = Console(quiet=True)
    prepare(given.hardware.threads, console)
    method = options.chosen_method(ctx, given.method, given.model)
    if not method.streams:
        raise CapabilityError(f"mcp: {method} can only score; use --method blocks")
    known: dict[tuple[ModelChoice, Hardware], Loaded] = {}

    def model_of(session: str) -> Loaded:
        """The model that a session was made with, or the one that was chosen; the last one stays loaded."""
        own = options.kept_model(ctx, given.model, given.hardware, given.store, session)
        if own not in known:
            known.clear()
            known[own] = load_model(*own, console)
        return known[own]

    if sys.stdin.isatty():
        print("everlong mcp waits for a client on stdin (docs/mcp.md); Ctrl-D ends it", file=sys.stderr)
    folder = home() if given.store is None else given.store
    server(LibraryTools(folder, model_of, method, given.chunk, [root.resolve() for root in given.root or ()])).run()
