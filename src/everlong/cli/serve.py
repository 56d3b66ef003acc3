"""`everlong serve`: endless streams over HTTP, in the forms that clients already speak."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from everlong.cli import options
from everlong.cli.console import Console
from everlong.cli.extract import ExtractLimits, extracted
from everlong.cli.groups import ModelChoice
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.serve import ServeOptions
from everlong.environment import home
from everlong.errors import CapabilityError, InputError
from everlong.session.document import Document
from everlong.storage.budget import size

if TYPE_CHECKING:
    from everlong.server.settings import MakeDocument, ServerSettings

_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(ctx: typer.Context, given: ServeOptions) -> None:
    """Load the model and serve it until the process is told to end."""
    console = Console(given.quiet, False)
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise CapabilityError("serve: needs packages that are not here; pip install 'everlong[serve]'")
    from everlong.server import run
    from everlong.server.service import Service

    settings = _settings(given, console)
    model = ModelChoice(model=given.model, weights=given.weights)
    chosen = options.chosen_method(ctx, given.method, model)
    if not chosen.streams:
        raise CapabilityError(f"serve: {chosen} can only score; use --method blocks")
    with run.bound(settings) as sock:
        loaded = load_model(model, given.hardware, console)
        service = Service(loaded, chosen, given.store or home(), settings, given.chunk)
        run.serve(service, sock, lambda: print(f"everlong serves {loaded.name} at {run.address(sock)}", flush=True))
    console.note("Sessions are kept.")


def _settings(given: ServeOptions, console: Console) -> ServerSettings:
    """What the server is told."""
    from everlong.server.settings import ServerSettings

    return ServerSettings(
        host=given.host,
        port=given.port,
        keys=_keys(given.api_key_file),
        memory_bytes=None if given.memory_bytes is None else size(given.memory_bytes),
        max_gap=given.max_gap,
        make_document=_documents(console),
    )


def _keys(path: Path | None) -> tuple[str, ...]:
    """The keys in a file; InputError for none."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a file of API keys, one a line") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise InputError(f"{path}: has no keys; write one on each line")
    return keys


def _documents(console: Console) -> MakeDocument:
    """What makes documents of uploaded files, each in a process of its own."""

    def made(path: Path, name: str) -> Document:
        return extracted(path, name, ExtractLimits(), console)

    return made
