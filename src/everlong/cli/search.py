"""`everlong search`: the passages of a kept session that hold some words, without a model and without an answer."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict

import typer

from everlong.cli import next_command, options
from everlong.cli.cite import where
from everlong.cli.console import Console
from everlong.cli.groups import Hardware, ModelChoice
from everlong.cli.verbs.search import SearchOptions
from everlong.errors import InputError
from everlong.library.library import Library
from everlong.models.load import load_tokenizer
from everlong.session.recall import Recalled
from everlong.session.search import search_kept
from everlong.text.transcript import Citation

_PLACE = ("name", "page", "chapter", "heading", "line")


def search(ctx: typer.Context, given: SearchOptions) -> None:
    """Show the passages."""
    console = Console.of(given.output)
    if not given.words.strip():
        raise InputError("words: empty; give at least one word")
    library = Library(given.kept.store, create=False)
    entry = library.entry(given.kept.session)
    own, _ = options.own_model(ctx, ModelChoice(model=given.model), Hardware(), library, given.kept.session)
    tokenizer = load_tokenizer(own.model)
    begun = time.perf_counter()
    found = search_kept(library, entry, tokenizer, given.words, given.top)
    if given.output.json:
        console.result([asdict(passage) | {key: getattr(where, key) for key in _PLACE} for passage, where in found])
        return
    for passage, place in found:
        _tell(passage, place)
    if not found:
        print("No passage holds any of these words.")
    console.note(f"{library.tokens(entry):,} tokens looked through in {time.perf_counter() - begun:.2f} s")
    where = next_command.same_session(ctx, given.kept.session, given.kept.store)
    asked = shlex.quote(given.words)
    console.note(f"Next: everlong ask {f'{where} -- {asked}' if given.words.startswith('-') else f'{asked} {where}'}")


def _tell(passage: Recalled, place: Citation) -> None:
    characters = f"characters {passage.start:,} to {passage.end:,}"
    said = where(place)
    print(said if characters in said else f"{said} ({characters})")
    for line in passage.text.strip().splitlines():
        print(f"    {line}")
    print()
