"""`everlong doctor`: what there is, what works with a model, and what it will cost."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.models.load import Loaded


def doctor(
    ctx: typer.Context,
    model: options.Model = "smollm2",
    option: options.Fields = None,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the machine, the versions, the model, and which methods work on it at what cost.

    Each method is attached to the model, which checks itself; -o fields go to the methods that have them. A cost is
    what the cache takes before any token is read, however long the stream.
    """
    from everlong.cli.console import Console
    from everlong.cli.setup import Setup
    from everlong.config import parse_options
    from everlong.methods import Dense

    console = Console(quiet, json)
    fields = _known_fields(parse_options(option or []))
    loaded = Setup(model, Dense(), dtype, device, threads, console).load()
    found = {
        "machine": machine(),
        "versions": versions(),
        "model": _model_facts(loaded),
        "methods": [_try(loaded, name, known, chunk) for name, known in fields.items()],
    }
    if json:
        console.result(found)
    else:
        _tell(found)
        console.note("Next: `everlong bench` measures the methods, `everlong score FILE` reads a text with one.")
