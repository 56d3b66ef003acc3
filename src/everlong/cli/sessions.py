"""`everlong sessions`: what is kept, and keeping it in order."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import complete, options

if TYPE_CHECKING:
    from everlong.library.catalog import SessionRecord
    from everlong.library.library import Library
    from everlong.text.transcript import Source

sessions = typer.Typer(
    name="sessions",
    help="List, show, fork, delete, verify, compact or move sessions.",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DAMAGE = ("missing_files", "damaged_files", "damaged_blocks", "damaged_digests", "damaged_recall_rows")
"""What `verify` may find, by the name it has in the report."""
_SHOWN = 8
Name = Annotated[str, typer.Argument(metavar="NAME", help="The session.", autocompletion=complete.sessions)]
NewName = Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")]


@sessions.callback()
def help_alone(ctx: typer.Context) -> None:
    """List, show, fork, delete, verify, compact or move sessions."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@sessions.command("list")
def list_sessions(store: options.Store = None, json: options.Json = False, debug: options.Debug = False) -> None:
    """Every kept session: tokens, size on the disk, when it was last written, method and model."""
    from everlong.cli.show import sessions_table

    library = _library(store)
    rows = [_row(library, entry) for entry in library.entries()]
    if json:
        _print(rows)
        return
    if rows:
        print("\n".join(sessions_table(rows)))
    else:
        print("No session is kept here; `everlong read FILE --session NAME` makes one.")


@sessions.command("show")
def show(name: Name, store: options.Store = None, json: options.Json = False, debug: options.Debug = False) -> None:
    """One session: its method, its sources and where they begin, its files."""
    from everlong.cli.show import session_lines

    library = _library(store)
    entry = library.entry(name)
    found = _row(library, entry) | {
        "sources": [_source_row(source) for source in library.sources(entry)],
        "volumes": [{"path": str(v.path), "first": v.first, "end": v.end} for v in library.volumes(entry)],
        "dropped_blocks": library.dropped(entry),
        "pins": library.pins(entry),
        "forgotten": [list(s) for s in library.forgotten(entry)],
    }
    if json:
        _print(found)
        return
    print("\n".join(session_lines(found)))


@sessions.command("fork")
def fork(name: Name, new: NewName, store: options.Store = None, debug: options.Debug = False) -> None:
    """A second session that has read the same; blocks are shared and not copied."""
    _library(store).fork(name, new)
    print(f"{new}: a fork of {name}")


@sessions.command("rename")
def rename(name: Name, new: NewName, store: options.Store = None, debug: options.Debug = False) -> None:
    """Give a session another name."""
    _library(store).rename(name, new)
    print(f"{new}: was {name}")


@sessions.command("delete")
def delete(name: Name, store: options.Store = None, debug: options.Debug = False) -> None:
    """Remove a session; blocks that a fork needs stay."""
    _library(store).delete(name)
    print(f"{name}: deleted")


@sessions.command("verify")
def verify(
    name: Name,
    store: options.Store = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Give up what is damaged, so that the rest can be used.")
    ] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Check every byte of a session; exit 2 if some are not what was written.

    --repair drops damaged blocks and makes digests again from the keys of theirs; with a damaged state, or ids, it goes
    back to the checkpoint before the last. --json prints one object with what is missing, damaged and dropped.
    """
    library = _library(store)
    found = library.verify(library.entry(name), repair)
    if json:
        _print(found)
    else:
        print(f"{name}: {_verdict(found, repair)}")
    if any(found[what] for what in DAMAGE) and not repair:
        raise typer.Exit(2)


@sessions.command("adopt")
def adopt(store: options.Store = None, json: options.Json = False, debug: options.Debug = False) -> None:
    """Name sessions again whose folders are there and that no everlong.db names, as their last checkpoints left them.

    For a store whose everlong.db was lost or damaged (move that away first). A name that is taken gets a number. --json
    prints a list of objects: folder, name, tokens and why_not. Exit 2 if one could not be taken up.
    """
    from everlong.library.library import Library

    found = Library.adopted(store)
    if json:
        _print([asdict(one) for one in found])
    for one in found if not json else ():
        print(f"{one.folder}: left alone, {one.why_not}" if one.name is None else f"{one.name}: {one.tokens:,} tokens")
    if not found and not json:
        print("Every session here has its name.")
    if any(one.name is None for one in found):
        raise typer.Exit(2)


@sessions.command("compact")
def compact(name: Name, store: options.Store = None, json: options.Json = False, debug: options.Debug = False) -> None:
    """Write a session's files anew without its dropped blocks; files whose blocks a fork needs stay as they are.

    --json prints one object: before_bytes, after_bytes and left_alone (files).
    """
    from everlong.cli.amounts import size

    done = asdict(_library(store).compact(name))
    if json:
        _print(done)
        return
    left = f"; {done['left_alone']} files are needed by a fork" if done["left_alone"] else ""
    print(f"{name}: {size(done['before_bytes'])} before, {size(done['after_bytes'])} after{left}")


@sessions.command("export")
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write (.tar).")],
    force: options.Force = False,
    store: options.Store = None,
    debug: options.Debug = False,
) -> None:
    """Write a session with all its blocks to one archive."""
    from everlong.cli.atomic_write import check_place

    library = _library(store)
    library.entry(name)
    check_place(file, force)
    library.export(name, file, overwrite=force)
    print(f"wrote {file}")


@sessions.command("import")
def import_session(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that export wrote.")],
    name: Annotated[str | None, typer.Option("--name", help="A name other than the one in the archive.")] = None,
    store: options.Store = None,
    debug: options.Debug = False,
) -> None:
    """Take a session from an archive into this store."""
    from everlong.library.library import Library

    print(f"{Library(store).take(file, name).name}: imported")


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
    from everlong.library.library import Library

    return Library(store, create=False)


def _row(library: Library, entry: SessionRecord) -> dict[str, Any]:
    hidden = ("fingerprint", "row_bytes", "state")
    shown = {key: value for key, value in vars(entry).items() if key not in hidden}
    return shown | {"bytes": library.bytes(entry)}


def _source_row(source: Source) -> dict[str, Any]:
    row = asdict(source) | {"marks": len(source.marks), "places": len(source.places)}
    del row["lines"]
    return row


def _print(value: Any) -> None:
    from everlong.cli.console import Console

    Console(json=True).result(value)
