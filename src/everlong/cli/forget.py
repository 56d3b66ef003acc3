"""`everlong forget`: a source or a span out of a kept session."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import options
from everlong.cli import span_options as span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlong.cli.console import Console
    from everlong.models.load import Loaded
    from everlong.session.ingest import Document
    from everlong.session.rebuild import RebuildProgress
    from everlong.text.transcript import TokenRange


def forget(
    ctx: typer.Context,
    session: options.SessionName = "default",
    source: span.Source = None,
    start: span.Start = None,
    end: span.End = None,
    tokens: span.Tokens = None,
    reread: Annotated[
        bool, typer.Option("--reread", help="Build the session anew without it: reads all the rest again.")
    ] = False,
    store: options.Store = None,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Forget a source or a span of a kept session.

    The blocks that touch the span are dropped and overwritten on the disk (where a fork needs them: once it does not);
    no answer draws on them again and no citation shows them. Tokens that were read later keep traces of the span. With
    --reread there are none: every token of the session but the forgotten ones is read again, which takes as long as
    reading took and twice the room on the disk until it is done; it goes on where an interrupt stopped it. --json
    prints one object: tokens, blocks, neighbour_tokens and shared_blocks; with --reread tokens and lost_pins.
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.library.library import Library
    from everlong.session.forgetting import stretches

    console = Console(quiet, json)
    what = span.named(source, start, end, tokens)
    own = options.own_model(ctx, Library(store, create=False), session)
    loaded = load_model(device=device, threads=threads, console=console, **own)
    with span.opened(loaded, store, session, read_only=reread) as opened:
        spans = stretches(opened, *what)
        result: dict[str, Any] = {} if reread else span.told(opened.forget(*what))
    if reread:
        done = read_again(loaded, store, session, chunk, spans, (), console)
        result = span.told(done)
    if json:
        console.result(result)
        return
    print(f"{session}: {_words(result)}")
    if not reread:
        console.note("Tokens that were read later keep traces of it; --reread reads them again without it.")


def read_again(
    loaded: Loaded,
    store: Path | None,
    name: str,
    chunk: int,
    spans: Sequence[TokenRange],
    documents: Sequence[Document],
    console: Console,
) -> RebuildProgress:
    """Builds a session anew, showing how far it is."""
    from everlong.cli.cut_off import Stop, told_when_cut_off
    from everlong.library.library import Library
    from everlong.session.rebuild import RebuildProgress, kept_so_far
    from everlong.session.rebuild import reread as rebuilt

    library = Library(store, create=False)
    done = RebuildProgress(0)
    begun = time.perf_counter()
    total = library.entry(name).tokens - sum(s.end - s.first for s in spans)
    steps = rebuilt(library, name, loaded, chunk, spans, documents)
    kept = told_when_cut_off(lambda: kept_so_far(library, name))
    with kept, Stop() as stop, console.progress(f"{name} (again)", total) as advance:

        def tell(step: RebuildProgress) -> None:
            nonlocal done
            done = step
            advance(done.tokens, f"{done.tokens / (time.perf_counter() - begun):.0f} tokens/s")

        stop.through(steps, tell)
    return done


def _words(result: dict[str, Any]) -> str:
    if "lost_pins" in result:
        lost = f", {result['lost_pins']} pins were lost" if result["lost_pins"] else ""
        return f"read again without it, {result['tokens']:,} tokens{lost}"
    others = f" with {result['neighbour_tokens']:,} tokens around them" if result["neighbour_tokens"] else ""
    shared = f"; a fork still needs {result['shared_blocks']} of them" if result["shared_blocks"] else ""
    return f"{result['tokens']:,} tokens forgotten{others}, {result['blocks']} blocks dropped and overwritten{shared}"
