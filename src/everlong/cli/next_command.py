"""The command that a user may type next, for the same session or model, as it is typed in a shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from everlong.cli import options

if TYPE_CHECKING:  # `everlong search` says what to do next and needs no session: half the time without
    from everlong.session.session import Session


def same_session(ctx: typer.Context, session: str, store: Path | None) -> str:
    """The options that lead another command to this session, which knows its model, as they are typed in a shell."""
    return shlex.join(["--session", session, *same_place(ctx, store)])


def same_place(ctx: typer.Context, store: Path | None) -> list[str]:
    """The options that lead another command to this store and device."""
    words = [] if store is None else ["--store", str(store)]
    if ctx.params.get("device") is not None and not options.is_default(ctx, "device"):
        words += ["--device", str(ctx.params["device"])]
    return words


def same_model(ctx: typer.Context) -> list[str]:
    """The options that give another command the same model."""
    given = {
        name: ctx.params.get(name)
        for name in ("model", "memory", "dtype", "weights", "device")
        if not options.is_default(ctx, name)
    }
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def talk(ctx: typer.Context, session: Session) -> str | None:
    """The command that talks to the same model, with the method that was given; None where it cannot talk."""
    if not getattr(session.tokenizer, "chat_template", None):
        return None
    method = [f"--method={session.method.name}"] if options.names_method(ctx) else []
    fields = [word for pair in ctx.params.get("option") or [] for word in ("-o", pair)]
    return shlex.join(["everlong", "chat", *same_model(ctx), *method, *fields])
