"""`everlong pin` and `everlong unpin`: what a kept session always attends to, and what it never gives up."""

from __future__ import annotations

import typer

from everlong.cli import next_command, options
from everlong.cli import span_options as span
from everlong.cli.console import Console
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.pin import PinOptions, UnpinOptions
from everlong.library.library import Library


def pin(ctx: typer.Context, given: PinOptions) -> None:
    """Pin the span."""
    console = Console.of(given.output)
    what = span.named(given.span)
    own = options.own_model(ctx, given.model, given.hardware, Library(given.store, create=False), given.session)
    loaded = load_model(*own, console)
    with span.opened(loaded, given.store, given.session) as opened:
        made = opened.pin(*what, always=given.always, keep=given.keep)
        pins = [span.told(p) for p in opened.pins]
    if given.output.json:
        console.result(span.told(made) | {"pins": pins})
        return
    flags = " and ".join(
        word for word, on in (("always attended to", given.always), ("never given up", given.keep)) if on
    )
    print(f"{given.session}: tokens {made.first}:{made.end} are {flags}")
    where = next_command.same_session(ctx, given.session, given.store)
    console.note(f"Next: everlong unpin {where} --tokens {made.first}:{made.end}")


def unpin(ctx: typer.Context, given: UnpinOptions) -> None:
    """Take away the pins of the span."""
    console = Console.of(given.output)
    what = span.named(given.span)
    own = options.own_model(ctx, given.model, given.hardware, Library(given.store, create=False), given.session)
    loaded = load_model(*own, console)
    with span.opened(loaded, given.store, given.session) as opened:
        count = opened.unpin(*what)
        pins = [span.told(p) for p in opened.pins]
    if given.output.json:
        console.result({"unpinned": count, "pins": pins})
    else:
        print(f"{given.session}: {count} pins taken away, {len(pins)} left")
