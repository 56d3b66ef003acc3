"""`everlong serve`: endless streams over HTTP, in the forms that clients already speak."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.server.settings import MakeDocument
    from everlong.session.ingest import Document


def serve(
    ctx: typer.Context,
    store: options.Store = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="The port; 0 takes one that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="A file of API keys, one a line; one of them is needed."),
    ] = None,
    memory_bytes: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="BYTES", help="What open sessions may take in memory; half of it if not given."
        ),
    ] = None,
    max_gap: Annotated[
        float,
        typer.Option(
            "--max-gap", help="How many times longer than alone an answer's token may take while others read."
        ),
    ] = 4.0,
    model: options.Model = "smollm2",
    method: options.MethodName = "blocks",
    option: options.Fields = None,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Serve a model over HTTP, as an OpenAI API.

    Its context never runs out. One line with its address says when it is ready; clients of OpenAI's API take that
    address with /v1 behind it. The request field "session" (or the header x-session-id) names a conversation that is
    kept in the store. SIGTERM or Ctrl-C ends the answers, keeps the sessions and exits 0. See docs/server.md; needs the
    extra everlong[serve].
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.environment import home
    from everlong.errors import CapabilityError
    from everlong.storage.budget import size

    console = Console(quiet, False)
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "python_multipart")):
        raise CapabilityError("serve: needs packages that are not here; pip install 'everlong[serve]'")
    from everlong.server.run import address, bound
    from everlong.server.run import serve as run
    from everlong.server.service import Service
    from everlong.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        keys=_keys(api_key_file),
        memory_bytes=None if memory_bytes is None else size(memory_bytes),
        max_gap=max_gap,
        make_document=_documents(console),
    )
    chosen = options.chosen_method(ctx, method, option)
    if not chosen.streams:
        raise CapabilityError(f"serve: {chosen} can only score; use --method blocks")
    with bound(settings) as sock:
        loaded = load_model(model, dtype, device, threads, console)
        service = Service(loaded, chosen, store or home(), settings, chunk)
        run(service, sock, lambda: print(f"everlong serves {loaded.name} at {address(sock)}", flush=True))
    console.note("Sessions are kept.")


def _keys(path: Path | None) -> tuple[str, ...]:
    """The keys in a file; InputError for none."""
    from everlong.errors import InputError

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
    """What makes documents of uploaded files."""
    from everlong.cli.documents import File, check, document

    def made(path: Path, name: str) -> Document:
        file = File(path, name, name)
        check(file)
        return document(file, console)

    return made
