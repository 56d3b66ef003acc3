"""What `everlong chat` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from everlong.cli import complete, groups

_TALK = groups.SamplingOptions(max_new_tokens=512, temperature=0.7)


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk to the model without end.

    Memory does not grow with the conversation, and it is kept after each turn: --session NAME goes on with it (or with
    what `everlong read` has read), --list shows what there is. Lines that begin with / are commands: /report,
    /save FILE, /load FILE, /reset, /undo, /help, /exit. Ctrl-C cuts an answer short and the conversation goes on; at
    the prompt it clears the line, and leaves when it comes again, as Ctrl-D does. Lines may also come from a pipe.
    --json prints one object for each answer: text, token_ids, seconds_per_token and the memory report; with --list one
    list of objects: name, turns, tokens, updated, model, method.
    """

    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system prompt.")] = None
    pin_system: Annotated[
        bool, typer.Option("--pin-system", help="Keep the system prompt for ever: make all its tokens sinks.")
    ] = False
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="The kept session to go on with, or to begin; a new one if none.",
            autocompletion=complete.sessions,
        ),
    ] = None
    list_chats: Annotated[bool, typer.Option("--list", help="Show the conversations that are kept.")] = False
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Talk to a server (everlong serve), which keeps the session.")
    ] = None
    no_keep: Annotated[bool, typer.Option("--no-keep", help="Keep nothing of what is said on the disk.")] = False
    store: groups.Store = None
    allow_special: groups.AllowSpecial = False
    model: groups.ModelChoice
    method: groups.MethodChoice
    sampling: groups.SamplingOptions = _TALK
    again: groups.Again = None
    undo: Annotated[int, typer.Option(min=0, help="Turns that /undo can take back; each costs a cache.")] = 4
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: groups.Config = None
    report: groups.Report = False
    output: groups.Output
