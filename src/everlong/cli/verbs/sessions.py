"""The commands of `everlong sessions`, and what each takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import complete, groups
from everlong.cli.loader import ContextGroup, Verb, add_command

Name = Annotated[str, typer.Argument(metavar="NAME", help="The session.", autocompletion=complete.sessions)]
NewName = Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")]


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Every kept session: tokens, size on the disk, when it was last written, method and model."""

    store: groups.Store = None
    json: groups.Json = False
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """One session: its method, its sources and where they begin, its files."""

    name: Name
    store: groups.Store = None
    json: groups.Json = False
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class ForkOptions:
    """A second session that has read the same; blocks are shared and not copied."""

    name: Name
    new: NewName
    store: groups.Store = None
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class RenameOptions:
    """Give a session another name."""

    name: Name
    new: NewName
    store: groups.Store = None
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class DeleteOptions:
    """Remove a session; blocks that a fork needs stay."""

    name: Name
    store: groups.Store = None
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check every byte of a session; exit 2 if some are not what was written.

    --repair drops damaged blocks and makes digests again from the keys of theirs; with a damaged state, or ids, it goes
    back to the checkpoint before the last. --json prints one object with what is missing, damaged and dropped.
    """

    name: Name
    store: groups.Store = None
    repair: Annotated[bool, typer.Option("--repair", help="Give up what is damaged, so that the rest can be used.")] = (
        False
    )
    json: groups.Json = False
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class AdoptOptions:
    """Name sessions again whose folders are there and that no everlong.db names, as their last checkpoints left them.

    For a store whose everlong.db was lost or damaged (move that away first). A name that is taken gets a number. --json
    prints a list of objects: folder, name, tokens and why_not. Exit 2 if one could not be taken up.
    """

    store: groups.Store = None
    json: groups.Json = False
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class CompactOptions:
    """Write a session's files anew without its dropped blocks; files whose blocks a fork needs stay as they are.

    --json prints one object: before_bytes, after_bytes and left_alone (files).
    """

    name: Name
    store: groups.Store = None
    json: groups.Json = False
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a session with all its blocks to one archive."""

    name: Name
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive to write (.tar).")]
    force: groups.Force = False
    store: groups.Store = None
    debug: groups.Debug = False


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Take a session from an archive into this store."""

    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive that export wrote.")]
    name: Annotated[str | None, typer.Option("--name", help="A name other than the one in the archive.")] = None
    store: groups.Store = None
    debug: groups.Debug = False


sessions = typer.Typer(
    name="sessions",
    help="List, show, fork, delete, verify, compact or move sessions.",
    cls=ContextGroup,
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@sessions.callback()
def help_alone(ctx: typer.Context) -> None:
    """List, show, fork, delete, verify, compact or move sessions."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


for _name, _work, _takes in (
    ("list", "list_sessions", ListOptions),
    ("show", "show", ShowOptions),
    ("fork", "fork", ForkOptions),
    ("rename", "rename", RenameOptions),
    ("delete", "delete", DeleteOptions),
    ("verify", "verify", VerifyOptions),
    ("adopt", "adopt", AdoptOptions),
    ("compact", "compact", CompactOptions),
    ("export", "export", ExportOptions),
    ("import", "import_session", ImportOptions),
):
    add_command(sessions, Verb(_name, module="sessions", work=_work), _takes)
