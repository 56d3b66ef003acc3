"""`everlong read`: files into a kept session, to be asked about for ever."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.models.load import Loaded
    from everlong.session.note_plan import NoteSettings
    from everlong.session.reading import Document
    from everlong.session.session import Session


def read(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Text, HTML, PDF; folders and patterns too.")],
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
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: options.Config = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Read files into a session that is kept on the disk.

    Reading goes on where it stopped, and files that were read already are skipped unless they have changed. What a
    changed file was is dropped, and it is read at the end; files that were read after it keep traces of what it was.
    With --reread there are none: the whole session is read again, which takes as long as reading took and twice the
    room on the disk until it is done. --notes helps with questions on whole chapters and texts, as far as the model can
    summarise; it takes longer than reading (--dry-run says how long), goes on where it was interrupted, and its notes
    are the source "notes: FILE". --json prints one object: session, tokens, seconds, tokens_per_s, peak_rss_bytes
    and the memory report; with --notes also what they took.
    """
    from everlong.cli.console import Console
    from everlong.cli.documents import check, document, expand
    from everlong.cli.encoding import load_encoder, use_encoder
    from everlong.cli.notes import fitted, told, write_notes_on
    from everlong.cli.setup import load_model

    console, budgets = Console(quiet, json), options.budgets(ctx)
    paths = expand(files)
    for path in paths:
        check(path, console)
    documents = [document(path, console, allow_special) for path in paths]
    chosen = options.chosen_method(ctx, method, option)
    voter = load_encoder(encoder, True, console)
    loaded = load_model(model, dtype, device, threads, console, memory)
    note_settings = fitted(loaded) if notes else None
    if dry_run:
        _tell_plan(_plan(loaded, chosen, documents, chunk, store, session, budgets, note_settings), console)
        return
    if reread:
        _read_changed(loaded, store, session, chunk, documents, console)
    with _opened(loaded, chosen, chunk, store, session, budgets, console) as opened:
        result = _read(opened, documents, console) | {"session": session}
        if notes:
            result |= {"notes": write_notes_on(opened, documents, loaded, console)}
        use_encoder(opened, voter, console)
    if json:
        console.result(result)
        return
    console.note(f"{result['read_tokens']:,} tokens read at {result['tokens_per_s']:.0f} a second; {result['memory']}")
    if notes:
        console.note(told(result["notes"]))
    console.note(f"Next: everlong ask 'A question?' {options.same_session(ctx, session, store)}")


def _read_changed(
    loaded: Loaded, store: Path | None, name: str, chunk: int, documents: list[Document], console: Console
) -> None:
    """Build the session anew with the documents that have changed, if there are any."""
    from everlong.cli.forget import read_again
    from everlong.session.library import Library
    from everlong.session.reading import changed

    library = Library(store)
    entry = library.find(name)
    new = [d for d in documents if changed(library.sources(entry), d)] if entry is not None else []
    if new:
        read_again(loaded, store, name, chunk, (), new, console)


def _opened(
    loaded: Loaded,
    method: Any,
    chunk: int,
    store: Path | None,
    name: str,
    budgets: dict[str, Any],
    console: Console,
) -> Session:
    """The session of this name, with its own settings if none were given; a new one if there is none."""
    from everlong.errors import ConfigError
    from everlong.methods import make_method
    from everlong.session.library import Library
    from everlong.session.session import Session

    library = Library(store)
    entry = library.find(name)
    if entry is None:
        return Session(loaded, method, chunk, library.folder, name, **budgets)
    kept, plain = make_method(entry.method["name"], entry.method["fields"]), make_method(method.name, {})
    if kept != method and (method != plain or method.name != kept.name):
        raise ConfigError(
            f"session {name!r}: was made with {kept}, got {method}; leave the options as they were, or give another "
            "--session"
        )
    console.note(f"Session {name!r} holds {entry.tokens:,} tokens already.")
    return Session.open(library.folder, name, loaded, chunk, **budgets)


def _read(session: Session, documents: list[Document], console: Console) -> dict[str, Any]:
    from everlong.cli.tally import peak_resident_bytes, reset_peak
    from everlong.report.stream import resident_bytes
    from everlong.session.reading import changed, is_read, read_document

    reset_peak()
    start, before = time.perf_counter(), session.seen_tokens
    for document in documents:
        if is_read(session, document):
            console.note(f"{document.name}: read already")
            continue
        if changed(session.transcript.sources, document):
            console.note(f"{document.name}: has changed; what it was is dropped, texts after it keep traces (--reread)")
        with console.progress(document.name, None) as advance:
            for done in read_document(session, document):
                rate = (session.seen_tokens - before) / (time.perf_counter() - start)
                advance(done, f"{rate:.0f} tokens/s, {session.seen_tokens:,} in all")
    session.checkpoint()
    seconds = time.perf_counter() - start
    read_tokens = session.seen_tokens - before
    return {
        "tokens": session.seen_tokens,
        "read_tokens": read_tokens,
        "seconds": seconds,
        "tokens_per_s": read_tokens / seconds,
        "peak_rss_bytes": peak_resident_bytes(resident_bytes()),
        "report": session.report().as_dict(),
        "memory": str(session.report()),
    }


def _plan(
    loaded: Loaded,
    method: Any,
    documents: list[Document],
    chunk: int,
    store: Path | None,
    name: str,
    budgets: dict[str, Any],
    notes: NoteSettings | None,
) -> dict[str, Any]:
    """Tokens, bytes by tier and seconds that reading would take, with what the session holds already."""
    from everlong.cli.notes import estimated
    from everlong.session.inputs import id_pieces
    from everlong.session.library import Library, home
    from everlong.session.session import Session

    vocabulary = loaded.model.get_input_embeddings().weight.shape[0]
    tokens = {
        d.name: sum(map(len, id_pieces(d.texts, loaded.tokenizer, vocabulary, False, d.allow_special)))
        for d in documents
    }
    folder = home() if store is None else store
    entry = Library(folder).find(name) if (folder / "everlong.db").is_file() else None
    with Session(loaded, method, chunk) as trial:
        trial.feed([0] * chunk)
        start = time.perf_counter()
        trial.feed([0] * chunk)
        token_s = (time.perf_counter() - start) / chunk
        seconds = token_s * sum(tokens.values())
        planned = None if notes is None else estimated(notes, trial, tokens.values(), token_s)
        held = 0 if entry is None else entry.tokens
        needed = trial.planned_bytes(held + sum(tokens.values()) + (planned or {}).get("kept_tokens", 0))
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    room = shutil.disk_usage(existing).free
    limits = {tier: budgets[f"{tier}_budget"] for tier in ("host", "disk")}
    over = [tier for tier, limit in limits.items() if limit is not None and needed[tier] > limit]
    return {
        "tokens": sum(tokens.values()),
        "held_tokens": held,
        "by_file": tokens,
        "seconds": seconds,
        "bytes": needed,
        "budget_bytes": {tier: limit for tier, limit in limits.items() if limit is not None},
        "over_budget": over,
        "when_full": budgets["when_full"],
        "free_disk_bytes": room,
        "fits": min(needed["disk"], limits["disk"] or needed["disk"]) < room,
    } | ({} if planned is None else {"notes": planned})


def _tell_plan(plan: dict[str, Any], console: Console) -> None:
    from everlong.cli.notes import told
    from everlong.errors import BudgetError, CapabilityError

    if not plan["fits"]:
        raise CapabilityError(
            f"read: {plan['tokens']:,} tokens need {plan['bytes']['disk']:,} bytes on the disk, and "
            f"{plan['free_disk_bytes']:,} are free; use a smaller -o codec (int8, int4), or another --store"
        )
    for tier in plan["over_budget"] if plan["when_full"] == "refuse" else ():
        raise BudgetError(
            f"read: {plan['tokens'] + plan['held_tokens']:,} tokens need {plan['bytes'][tier]:,} bytes of {tier}, and "
            f"the budget is {plan['budget_bytes'][tier]:,}; give a larger --{tier}-budget, --when-full oldest, or "
            "a smaller -o codec (int8, int4)"
        )
    if console.json:
        console.result(plan)
        return
    for name, tokens in plan["by_file"].items():
        print(f"{tokens:>12,} tokens  {name}")
    print(f"{plan['tokens']:>12,} tokens in all, about {plan['seconds'] / 60:.0f} minutes or more on this machine")
    if "notes" in plan:
        print(told(plan["notes"], "at most "))
    places = {
        "disk": "on the disk",
        "host": "of host memory for blocks",
        "device": "of working memory beside the model",
    }
    for tier, place in places.items():
        print(f"{plan['bytes'][tier] / 2**20:>12,.0f} MiB {place}{_limits(plan, tier)}")


def _limits(plan: dict[str, Any], tier: str) -> str:
    """What the bytes of a tier are held against."""
    said = f", {plan['free_disk_bytes'] / 2**20:,.0f} MiB free" if tier == "disk" else ""
    if tier in plan["budget_bytes"]:
        said += f", budget {plan['budget_bytes'][tier] / 2**20:,.0f} MiB"
    return said + (f": the {plan['when_full']} blocks give way" if tier in plan["over_budget"] else "")
