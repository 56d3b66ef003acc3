"""`everlong read`: files into a kept session, to be asked about for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import next_command, options

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.models.load import Loaded
    from everlong.session.ingest import Document
    from everlong.session.session import Session


def read(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, folders, patterns; - for stdin.")],
    encoding: options.Encoding = None,
    session: options.SessionName = "default",
    store: options.Store = None,
    reread: Annotated[
        bool, typer.Option("--reread", help="Where a file has changed, build the session anew: reads all of it again.")
    ] = False,
    notes: Annotated[
        bool,
        typer.Option("--notes", help="Let the model write notes: on each part, and on the notes, up to the whole."),
    ] = False,
    host_budget: options.HostBudget = None,
    disk_budget: options.DiskBudget = None,
    encoder: options.Encoder = None,
    when_full: options.WhenFull = "refuse",
    allow_special: options.AllowSpecial = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what reading would take, and read nothing.")] = False,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    method: options.MethodName = "blocks",
    option: options.Fields = None,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    report: options.Report = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read files into a session that is kept on the disk.

    Text in any encoding, Markdown, source code, HTML (its main text), PDF, EPUB, DOCX, ODT, notebooks, mbox and mail;
    most need the extra everlong[documents]. Of a folder all these are read but what is hidden or ignored by .gitignore,
    and what was skipped is counted. Of a text that has grown since (a log) only what was added is read.

    What was read is kept every half minute and where Ctrl-C or SIGTERM ends it, after the chunk that is being read; the
    same command goes on from there. Files that were read already are skipped unless they have changed. What a changed
    file was is dropped, and it is read at the end; files that were read after it keep traces of what it was.
    With --reread there are none: the whole session is read again, which takes as long as reading took and twice the
    room on the disk until it is done. --notes helps with questions on whole chapters and texts, as far as the model can
    summarise; it takes longer than reading (--dry-run says how long), goes on where it was interrupted, and its notes
    are the source "notes: FILE". --json prints one object: session, tokens, seconds, tokens_per_s, peak_rss_bytes
    the memory report and skipped (files by kind); with --notes also what they took.
    """
    from everlong.cli.account import lost
    from everlong.cli.amounts import duration, several
    from everlong.cli.console import Console
    from everlong.cli.cut_off import told_when_cut_off
    from everlong.cli.documents import choose, document
    from everlong.cli.encoding import load_encoder, use_encoder
    from everlong.cli.model_setup import load_model
    from everlong.cli.notes import fitted, told, write_notes_on
    from everlong.cli.plan import Reading, tell
    from everlong.cli.read_all import read_all
    from everlong.session.losses import losses

    console = Console(quiet, json)
    budgets = options.budgets(ctx)
    found = choose(files, encoding)
    if words := found.told():
        console.note(words)
    documents = [document(file, console, allow_special) for file in found.files]
    own = options.kept_model(ctx, store, session)
    chosen = options.chosen_method(ctx, method, option, own.get("memory"))
    voter = load_encoder(encoder, True, console)
    loaded = load_model(device=device, threads=threads, console=console, **own)
    note_settings = fitted(loaded) if notes else None
    meant = Reading(loaded, chosen, chunk, store, session, budgets)
    if dry_run:
        tell(meant.plan(documents, note_settings), console)
        return
    foretold = meant.foretell(documents, console)
    if reread:
        _read_changed(loaded, store, session, chunk, documents, console)
    wanted = chosen if options.names_method(ctx) else None
    with (
        _opened(loaded, chosen, wanted, chunk, store, session, budgets, console) as opened,
        told_when_cut_off(lambda: opened.kept_tokens),
    ):
        result = read_all(opened, documents, foretold, console) | {"session": session, "skipped": dict(found.skipped)}
        gone = lost(losses(opened))
        if notes:
            result |= {"notes": write_notes_on(opened, documents, loaded, console)}
        use_encoder(opened, voter, console)
    if json:
        console.result(result)
        return
    console.note(f"{several(result['read_tokens'], 'token')} read in {duration(result['seconds'])}; {gone}")
    if report:
        console.note(result["memory"])
    if notes:
        console.note(told(result["notes"]))
    console.note(f"Next: everlong ask 'A question?' {next_command.same_session(ctx, session, store)}")


def _read_changed(
    loaded: Loaded, store: Path | None, name: str, chunk: int, documents: list[Document], console: Console
) -> None:
    """Build the session anew with the documents that have changed, if there are any."""
    from everlong.cli.forget import read_again
    from everlong.library.library import Library
    from everlong.session.ingest import changed

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
    from everlong.errors import ConfigError
    from everlong.library.library import Library
    from everlong.methods import make_method
    from everlong.session.session import Session

    library = Library(store)
    entry = library.find(name)
    if entry is None:
        return Session(loaded, method, chunk, library.folder, name, **budgets)
    kept = make_method(entry.method["name"], entry.method["fields"])
    plain = None if wanted is None else make_method(wanted.name, {})
    if wanted not in (None, kept) and (wanted != plain or wanted.name != kept.name):
        raise ConfigError(
            f"session {name!r}: was made with {kept}, got {wanted}; leave the options as they were, or give another "
            "--session"
        )
    console.note(f"Session {name!r} holds {entry.tokens:,} tokens already.")
    return Session.open(library.folder, name, loaded, chunk, **budgets)
