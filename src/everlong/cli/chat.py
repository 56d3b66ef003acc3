"""`everlong chat`: a conversation without end, from a terminal or from a pipe."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from everlong.cli import complete, next_command, options

if TYPE_CHECKING:
    from everlong.methods.base import Method
    from everlong.models.load import Loaded


def chat(
    ctx: typer.Context,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="The system prompt.")] = None,
    pin_system: Annotated[
        bool, typer.Option("--pin-system", help="Keep the system prompt for ever: make all its tokens sinks.")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            "--session",
            metavar="NAME",
            help="The kept session to go on with, or to begin; a new one if none.",
            autocompletion=complete.sessions,
        ),
    ] = None,
    list_chats: Annotated[bool, typer.Option("--list", help="Show the conversations that are kept.")] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Talk to a server (everlong serve), which keeps the session.")
    ] = None,
    no_keep: Annotated[bool, typer.Option("--no-keep", help="Keep nothing of what is said on the disk.")] = False,
    store: options.Store = None,
    allow_special: options.AllowSpecial = False,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    method: options.MethodName = "sinks",
    option: options.Fields = None,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    stop: options.Stop = None,
    seed: options.Seed = None,
    again: options.Again = None,
    undo: Annotated[int, typer.Option(min=0, help="Turns that /undo can take back; each costs a cache.")] = 4,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    report: options.Report = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Talk to the model without end.

    Memory does not grow with the conversation, and it is kept after each turn: --session NAME goes on with it (or with
    what `everlong read` has read), --list shows what there is. Lines that begin with / are commands: /report,
    /save FILE, /load FILE, /reset, /undo, /help, /exit. Ctrl-C cuts an answer short and the conversation goes on; at
    the prompt it clears the line, and leaves when it comes again, as Ctrl-D does. Lines may also come from a pipe.
    --json prints one object for each answer: text, token_ids, seconds_per_token and the memory report; with --list one
    list of objects: name, turns, tokens, updated, model, method.
    """
    from everlong.cli.console import Console
    from everlong.cli.conversation import Conversation
    from everlong.cli.kept_chats import Chats, tell
    from everlong.cli.model_setup import load_model
    from everlong.cli.remote_chat import RemoteChat
    from everlong.session.session import Session

    console = Console(quiet, json)
    if server is not None:
        _refuse_with_server(ctx)
        RemoteChat(server, session, system, options.sampling(ctx), console).run()
        return
    chats = Chats(store)
    command = shlex.join(["everlong", "chat", *next_command.same_place(ctx, store)])
    if list_chats:
        tell(chats.rows(), console, command)
        return
    own = options.kept_model(ctx, store, session)
    chosen = options.chosen_method(ctx, method, option, own.get("memory"))
    sampling = options.sampling(ctx)
    passages = options.passages(again)
    _check(chosen, pin_system)
    given = pin_system or bool(option) or not options.is_default(ctx, "method")
    chats.check(session, chosen if given else None, pin_system)
    loaded = load_model(device=device, threads=threads, console=console, **own)
    if pin_system:
        chosen = _pinned(chosen, loaded, system)
    if no_keep and not chats.has(session):
        opened = Session(loaded, chosen, chunk, allow_special=allow_special)
    else:
        opened = chats.opened(session, loaded, chosen, chunk, allow_special, not no_keep)
    with Conversation(
        opened, loaded, system, undo, sampling, console, passages, chats, command, report
    ) as conversation:
        conversation.run()


def _refuse_with_server(ctx: typer.Context) -> None:
    """ConfigError for options that a server decides by itself."""
    from everlong.errors import ConfigError

    for name in ("model", "method", "option", "memory", "store", "no_keep", "pin_system", "list_chats", "again"):
        if not options.is_default(ctx, name):
            flag = name.replace("_", "-").removesuffix("-chats")
            raise ConfigError(f"{flag}: has no effect with --server, which has its own; leave it out")


def _check(method: Method, pin_system: bool) -> None:
    """An error for a method that cannot talk, or cannot pin the system prompt: said before the model is loaded."""
    from everlong.errors import CapabilityError, ConfigError

    if not method.streams:
        raise CapabilityError(f"chat: {method} can only score; use --method sinks")
    if pin_system and "sinks" not in method.as_dict():
        raise ConfigError(f"pin-system: method {method.name} has no sinks to pin the prompt with; use --method sinks")


def _pinned(method: Method, loaded: Loaded, system: str | None) -> Method:
    """The method with sinks enough for every token of the system prompt."""
    from everlong.methods import make_method
    from everlong.session.chat import system_tokens

    needed = system_tokens(loaded.tokenizer, system)
    fields = method.as_dict()
    return make_method(method.name, fields | {"sinks": max(needed, fields["sinks"])})
