"""`everlong read`: files into a kept session, to be asked about for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from everlong.cli import next_command, options
from everlong.cli.account import lost
from everlong.cli.amounts import duration, several
from everlong.cli.console import Console
from everlong.cli.cut_off import told_when_cut_off
from everlong.cli.documents import Chosen, choose, document
from everlong.cli.encoding import load_encoder, use_encoder
from everlong.cli.forget import read_again
from everlong.cli.model_setup import load_model
from everlong.cli.notes import fitted, told, write_notes_on
from everlong.cli.pictures import pictures, read_pictures
from everlong.cli.plan import Reading, tell
from everlong.cli.read_all import read_all
from everlong.cli.verbs.read import ReadOptions
from everlong.errors import ConfigError
from everlong.library.library import Library
from everlong.methods import make_method
from everlong.models.load import Loaded
from everlong.session.ingest import Document, changed
from everlong.session.losses import losses
from everlong.session.session import Session
from everlong.text.images import ImageReader


def read(ctx: typer.Context, given: ReadOptions) -> None:
    """Read the files into the session, or say what that would take."""
    console = Console.of(given.output)
    budgets = options.budgets(given.host_budget, given.disk_budget, given.when_full)
    found = choose(given.files, given.encoding, given.images)
    if words := found.told():
        console.note(words)
    documents = [document(file, console, given.allow_special) for file in found.files]
    own = options.kept_model(ctx, given.model, given.hardware, given.kept.store, given.kept.session)
    chosen = options.chosen_method(ctx, given.method, own[0])
    voter = load_encoder(given.encoder, True, console)
    loaded = load_model(*own, console)
    if given.images:
        ImageReader(loaded.processor)  # says at once where the model takes no images
    note_settings = fitted(loaded) if given.notes else None
    meant = Reading(loaded, chosen, given.chunk, given.kept.store, given.kept.session, budgets)
    if given.dry_run:
        tell(meant.plan(documents, note_settings), console)
        return
    foretold = meant.foretell(documents, console)
    if given.reread:
        _read_changed(loaded, given.kept.store, given.kept.session, given.chunk, documents, console)
    wanted = chosen if options.names_method(ctx) else None
    with (
        _opened(loaded, chosen, wanted, given.chunk, given.kept.store, given.kept.session, budgets, console) as opened,
        told_when_cut_off(lambda: opened.keeping.tokens),
    ):
        result = read_all(opened, documents, foretold, console) | {
            "session": given.kept.session,
            "skipped": dict(found.skipped),
        }
        if given.images:
            result |= _read_pictures(opened, given.files, found, console)
        gone = lost(losses(opened))
        if given.notes:
            result |= {"notes": write_notes_on(opened, documents, loaded, console)}
        use_encoder(opened, voter, console)
    if given.output.json:
        console.result(result)
        return
    console.note(f"{several(result['read_tokens'], 'token')} read in {duration(result['seconds'])}; {gone}")
    if given.report:
        console.note(result["memory"])
    if given.notes:
        console.note(told(result["notes"]))
    console.note(
        f"Next: everlong ask 'A question?' {next_command.same_session(ctx, given.kept.session, given.kept.store)}"
    )


def _read_pictures(session: Session, names: list[str], found: Chosen, console: Console) -> dict[str, Any]:
    """Read image files, those `names` and others, and the pictures of documents; how many, and what is held then."""
    before = session.seen_tokens
    count = read_pictures(session, pictures(found, names, console), console)
    return {
        "pictures": count,
        "picture_tokens": session.seen_tokens - before,
        "tokens": session.seen_tokens,
        "report": session.report().as_dict(),
        "memory": str(session.report()),
    }


def _read_changed(
    loaded: Loaded, store: Path | None, name: str, chunk: int, documents: list[Document], console: Console
) -> None:
    """Build the session anew with the documents that have changed, if there are any."""
    library = Library(store)
    entry = library.find(name)
    new = [d for d in documents if changed(library.sources(entry), d)] if entry is not None else []
    if new:
        read_again(loaded, store, name, chunk, (), new, console)


def _opened(
    loaded: Loaded,
    method: Any,
    wanted: Any,
    chunk: int,
    store: Path | None,
    name: str,
    budgets: dict[str, Any],
    console: Console,
) -> Session:
    """The session of this name, with its own settings; a new one with `method` if there is none.

    `wanted` is the method that was asked for by name or by fields, if any.
    """
    library = Library(store)
    entry = library.find(name)
    if entry is None:
        return Session(loaded, method, chunk, library.folder, name, **budgets)
    kept = entry.made_method()
    plain = None if wanted is None else make_method(wanted.name, {})
    if wanted not in (None, kept) and (wanted != plain or wanted.name != kept.name):
        raise ConfigError(
            f"session {name!r}: was made with {kept}, got {wanted}; leave the options as they were, or give another "
            "--session"
        )
    console.note(f"Session {name!r} holds {library.tokens(entry):,} tokens already.")
    return Session.open(library.folder, name, loaded, chunk, **budgets)
