"""`everlong forget`: a source or a span out of a kept session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from everlong.cli import options
from everlong.cli import span_options as span
from everlong.cli.console import Console
from everlong.cli.cut_off import Stop, told_when_cut_off
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.forget import ForgetOptions
from everlong.library.library import Library
from everlong.models.load import Loaded
from everlong.session.forgetting import stretches
from everlong.session.ingest import Document
from everlong.session.rebuild import RebuildProgress, kept_so_far
from everlong.session.rebuild import reread as rebuilt
from everlong.text.transcript import TokenRange


def forget(ctx: typer.Context, given: ForgetOptions) -> None:
    """Forget the span, and say what that took."""
    console = Console.of(given.output)
    what = span.named(given.span)
    own = options.own_model(ctx, given.model, given.hardware, Library(given.store, create=False), given.session)
    loaded = load_model(*own, console)
    with span.opened(loaded, given.store, given.session, read_only=given.reread) as opened:
        spans = stretches(opened, *what)
        result: dict[str, Any] = {} if given.reread else span.told(opened.forget(*what))
    if given.reread:
        done = read_again(loaded, given.store, given.session, given.chunk, spans, (), console)
        result = span.told(done)
    if given.output.json:
        console.result(result)
        return
    print(f"{given.session}: {_words(result)}")
    if not given.reread:
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
    """Build a session anew, showing how far it is."""
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
