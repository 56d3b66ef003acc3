"""`everlong chat`: a conversation without end, from a terminal or from a pipe."""

from __future__ import annotations

import shlex

import typer

from everlong.cli import next_command, options
from everlong.cli.console import Console
from everlong.cli.conversation import Conversation
from everlong.cli.kept_chats import Chats, tell
from everlong.cli.model_setup import load_model
from everlong.cli.remote_chat import RemoteChat
from everlong.cli.verbs.chat import ChatOptions
from everlong.errors import CapabilityError, ConfigError
from everlong.methods import make_method
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.session.chat import system_tokens
from everlong.session.session import Session


def chat(ctx: typer.Context, given: ChatOptions) -> None:
    """Open the conversation, or begin it, and talk."""
    console = Console.of(given.output)
    if given.server is not None:
        _refuse_with_server(ctx)
        RemoteChat(given.server, given.session, given.system, options.sampling(given.sampling), console).run()
        return
    chats = Chats(given.store)
    command = shlex.join(["everlong", "chat", *next_command.same_place(ctx, given.store)])
    if given.list_chats:
        tell(chats.rows(), console, command)
        return
    own = options.kept_model(ctx, given.model, given.hardware, given.store, given.session)
    chosen = options.chosen_method(ctx, given.method, own[0])
    sampling = options.sampling(given.sampling)
    passages = options.passages(given.again)
    _check(chosen, given.pin_system)
    named = given.pin_system or bool(given.method.option) or not options.is_default(ctx, "method")
    chats.check(given.session, chosen if named else None, given.pin_system)
    loaded = load_model(*own, console)
    if given.pin_system:
        chosen = _pinned(chosen, loaded, given.system)
    if given.no_keep and not chats.has(given.session):
        opened = Session(loaded, chosen, given.chunk, allow_special=given.allow_special)
    else:
        opened = chats.opened(given.session, loaded, chosen, given.chunk, given.allow_special, not given.no_keep)
    with Conversation(
        opened, loaded, given.system, given.undo, sampling, console, passages, chats, command, given.report
    ) as conversation:
        conversation.run()


def _refuse_with_server(ctx: typer.Context) -> None:
    """ConfigError for options that a server decides by itself."""
    for name in ("model", "method", "option", "memory", "store", "no_keep", "pin_system", "list_chats", "again"):
        if not options.is_default(ctx, name):
            flag = name.replace("_", "-").removesuffix("-chats")
            raise ConfigError(f"{flag}: has no effect with --server, which has its own; leave it out")


def _check(method: Method, pin_system: bool) -> None:
    """An error for a method that cannot talk, or cannot pin the system prompt: said before the model is loaded."""
    if not method.streams:
        raise CapabilityError(f"chat: {method} can only score; use --method sinks")
    if pin_system and "sinks" not in method.as_dict():
        raise ConfigError(f"pin-system: method {method.name} has no sinks to pin the prompt with; use --method sinks")


def _pinned(method: Method, loaded: Loaded, system: str | None) -> Method:
    """The method with sinks enough for every token of the system prompt."""
    needed = system_tokens(loaded.tokenizer, system)
    fields = method.as_dict()
    return make_method(method.name, fields | {"sinks": max(needed, fields["sinks"])})
