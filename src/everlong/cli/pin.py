"""`everlong pin` and `everlong unpin`: what a kept session always attends to, and what it never gives up."""

from __future__ import annotations

from typing import Annotated

import typer

from everlong.cli import next_command, options
from everlong.cli import span_options as span


def pin(
    ctx: typer.Context,
    session: options.SessionName = "default",
    source: span.Source = None,
    start: span.Start = None,
    end: span.End = None,
    tokens: span.Tokens = None,
    always: Annotated[bool, typer.Option("--always/--no-always", help="Every token attends to it.")] = True,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="It is never given up for room.")] = True,
    store: options.Store = None,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Pin a source or a span of a kept session.

    The blocks that touch the span are pinned whole; what is still in the window is pinned once it leaves it. --json
    prints one object: first, end (tokens), always, keep and all pins of the session.
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.library.library import Library

    console = Console(quiet, json)
    what = span.named(source, start, end, tokens)
    own = options.own_model(ctx, Library(store, create=False), session)
    loaded = load_model(device=device, threads=threads, console=console, **own)
    with span.opened(loaded, store, session) as opened:
        made = opened.pin(*what, always=always, keep=keep)
        pins = [span.told(p) for p in opened.pins]
    if json:
        console.result(span.told(made) | {"pins": pins})
        return
    flags = " and ".join(word for word, on in (("always attended to", always), ("never given up", keep)) if on)
    print(f"{session}: tokens {made.first}:{made.end} are {flags}")
    where = next_command.same_session(ctx, session, store)
    console.note(f"Next: everlong unpin {where} --tokens {made.first}:{made.end}")


def unpin(
    ctx: typer.Context,
    session: options.SessionName = "default",
    source: span.Source = None,
    start: span.Start = None,
    end: span.End = None,
    tokens: span.Tokens = None,
    store: options.Store = None,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Take away the pins of a source or a span.

    --json prints one object: unpinned (how many) and the pins that are left.
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.library.library import Library

    console = Console(quiet, json)
    what = span.named(source, start, end, tokens)
    own = options.own_model(ctx, Library(store, create=False), session)
    loaded = load_model(device=device, threads=threads, console=console, **own)
    with span.opened(loaded, store, session) as opened:
        count = opened.unpin(*what)
        pins = [span.told(p) for p in opened.pins]
    if json:
        console.result({"unpinned": count, "pins": pins})
    else:
        print(f"{session}: {count} pins taken away, {len(pins)} left")
