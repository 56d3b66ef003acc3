"""`everlong sessions`: what is kept, and keeping it in order."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from everlong.cli.amounts import size
from everlong.cli.atomic_write import check_place
from everlong.cli.console import Console
from everlong.cli.show import session_lines, sessions_table
from everlong.cli.verbs.sessions import (
    AdoptOptions,
    CompactOptions,
    DeleteOptions,
    ExportOptions,
    ForkOptions,
    ImportOptions,
    ListOptions,
    RenameOptions,
    ShowOptions,
    VerifyOptions,
)
from everlong.library.catalog import SessionRecord
from everlong.library.library import Library
from everlong.text.transcript import Source

DAMAGE = ("missing_files", "damaged_files", "damaged_blocks", "damaged_digests", "damaged_recall_rows")
"""What `verify` may find, by the name it has in the report."""
_SHOWN = 8


def list_sessions(ctx: typer.Context, given: ListOptions) -> None:
    """Show every kept session."""
    library = _library(given.store)
    rows = [_row(library, entry) for entry in library.entries()]
    if given.json:
        _print(rows)
        return
    if rows:
        print("\n".join(sessions_table(rows)))
    else:
        print("No session is kept here; `everlong read FILE --session NAME` makes one.")


def show(ctx: typer.Context, given: ShowOptions) -> None:
    """Show one session."""
    library = _library(given.store)
    entry = library.entry(given.name)
    found = _row(library, entry) | {
        "sources": [_source_row(source) for source in library.sources(entry)],
        "volumes": [{"path": str(v.path), "first": v.first, "end": v.end} for v in library.volumes(entry)],
        "dropped_blocks": library.dropped(entry),
        "pins": library.pins(entry),
        "forgotten": [list(s) for s in library.forgotten(entry)],
    }
    if given.json:
        _print(found)
        return
    print("\n".join(session_lines(found)))


def fork(ctx: typer.Context, given: ForkOptions) -> None:
    """Fork the session."""
    _library(given.store).fork(given.name, given.new)
    print(f"{given.new}: a fork of {given.name}")


def rename(ctx: typer.Context, given: RenameOptions) -> None:
    """Rename the session."""
    _library(given.store).rename(given.name, given.new)
    print(f"{given.new}: was {given.name}")


def delete(ctx: typer.Context, given: DeleteOptions) -> None:
    """Delete the session."""
    _library(given.store).delete(given.name)
    print(f"{given.name}: deleted")


def verify(ctx: typer.Context, given: VerifyOptions) -> None:
    """Check the session, repair it if asked to; exit 2 where damage is left."""
    library = _library(given.store)
    found = library.verify(library.entry(given.name), given.repair)
    if given.json:
        _print(found)
    else:
        print(f"{given.name}: {_verdict(found, given.repair)}")
    if any(found[what] for what in DAMAGE) and not given.repair:
        raise typer.Exit(2)


def adopt(ctx: typer.Context, given: AdoptOptions) -> None:
    """Name the sessions without a name; exit 2 where one could not be."""
    found = Library.adopted(given.store)
    if given.json:
        _print([asdict(one) for one in found])
    for one in found if not given.json else ():
        print(f"{one.folder}: left alone, {one.why_not}" if one.name is None else f"{one.name}: {one.tokens:,} tokens")
    if not found and not given.json:
        print("Every session here has its name.")
    if any(one.name is None for one in found):
        raise typer.Exit(2)


def compact(ctx: typer.Context, given: CompactOptions) -> None:
    """Compact the session."""
    done = asdict(_library(given.store).compact(given.name))
    if given.json:
        _print(done)
        return
    left = f"; {done['left_alone']} files are needed by a fork" if done["left_alone"] else ""
    print(f"{given.name}: {size(done['before_bytes'])} before, {size(done['after_bytes'])} after{left}")


def export(ctx: typer.Context, given: ExportOptions) -> None:
    """Write the archive."""
    library = _library(given.store)
    library.entry(given.name)
    check_place(given.file, given.force)
    library.export(given.name, given.file, overwrite=given.force)
    print(f"wrote {given.file}")


def import_session(ctx: typer.Context, given: ImportOptions) -> None:
    """Take the session from the archive."""
    print(f"{Library(given.store).take(given.file, given.name).name}: imported")


def _verdict(found: dict[str, Any], repaired: bool) -> str:
    """What was checked, what was found and what was done about it."""
    words = [f"{found['blocks']:,} blocks checked"]
    counts = {what: f"{len(found[what]):,}" for what in DAMAGE}
    if not any(found[what] for what in DAMAGE):
        return f"{words[0]}, whole"
    words += [f"missing: {path}" for path in found["missing_files"]]
    words += [f"damaged: {path}" for path in found["damaged_files"]]
    if found["damaged_files"] and repaired:
        words.append(f"back at the checkpoint of {found['tokens']:,} tokens, read on from there")
    if found["damaged_blocks"]:
        which = ", ".join(map(str, found["damaged_blocks"][:_SHOWN]))
        more = ", ..." if len(found["damaged_blocks"]) > _SHOWN else ""
        done = ": they are dropped now, ask without them" if repaired else ""
        words.append(f"{counts['damaged_blocks']} damaged or missing blocks ({which}{more}){done}")
    if found["damaged_digests"]:
        done = " made again from their blocks' keys" if repaired else ""
        words.append(f"{counts['damaged_digests']} damaged or missing digests{done}")
    if found["damaged_recall_rows"]:
        done = ", which are built again from the stored keys" if repaired else ""
        words.append(f"{counts['damaged_recall_rows']} damaged rows of the recall index{done}")
    return "; ".join(words) + ("" if repaired else "; --repair goes on without what is lost")


def _library(store: Path | None) -> Library:
    return Library(store, create=False)


def _row(library: Library, entry: SessionRecord) -> dict[str, Any]:
    hidden = ("fingerprint", "row_bytes", "state")
    shown = {key: value for key, value in vars(entry).items() if key not in hidden}
    tokens = library.tokens(entry)
    return shown | {"tokens": tokens, "journal_tokens": tokens - entry.tokens, "bytes": library.bytes(entry)}


def _source_row(source: Source) -> dict[str, Any]:
    row = asdict(source) | {"marks": len(source.marks), "places": len(source.places)}
    del row["lines"]
    return row


def _print(value: Any) -> None:
    Console(json=True).result(value)
