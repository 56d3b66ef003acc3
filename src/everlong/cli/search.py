"""`everlong search`: the passages of a kept session that hold some words, without a model and without an answer."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from everlong.cli import next_command, options

if TYPE_CHECKING:
    from everlong.session.recall import Recalled
    from everlong.text.transcript import Citation

_PLACE = ("name", "page", "chapter", "heading", "line")


def search(
    ctx: typer.Context,
    words: Annotated[str, typer.Argument(metavar="WORDS", help="What to look for.")],
    session: options.SessionName = "default",
    store: options.Store = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many passages.")] = 5,
    model: options.Model = "smollm2",
    config: options.Config = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the passages of a session that hold some words.

    Only the tokenizer of the model is read: nothing is computed by the model, and nothing in the session changes. What
    is not yet in the last checkpoint is not found. --json prints a list of objects: source, start, end, text, share,
    and of the best sentence name, page, chapter, heading and line.
    """
    from everlong.cli.console import Console
    from everlong.errors import InputError
    from everlong.library.library import Library
    from everlong.models.load import load_tokenizer
    from everlong.session.search import search_kept

    console = Console(quiet, json)
    if not words.strip():
        raise InputError("words: empty; give at least one word")
    library = Library(store, create=False)
    entry = library.entry(session)
    tokenizer = load_tokenizer(options.own_model(ctx, library, session)["model"])
    begun = time.perf_counter()
    found = search_kept(library, entry, tokenizer, words, top)
    if json:
        console.result([asdict(passage) | {key: getattr(where, key) for key in _PLACE} for passage, where in found])
        return
    for passage, place in found:
        _tell(passage, place)
    if not found:
        print("No passage holds any of these words.")
    console.note(f"{entry.tokens:,} tokens looked through in {time.perf_counter() - begun:.2f} s")
    where = next_command.same_session(ctx, session, store)
    asked = shlex.quote(words)
    console.note(f"Next: everlong ask {f'{where} -- {asked}' if words.startswith('-') else f'{asked} {where}'}")


def _tell(passage: Recalled, place: Citation) -> None:
    from everlong.cli.cite import where

    characters = f"characters {passage.start:,} to {passage.end:,}"
    said = where(place)
    print(said if characters in said else f"{said} ({characters})")
    for line in passage.text.strip().splitlines():
        print(f"    {line}")
    print()
