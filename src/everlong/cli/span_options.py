"""The options of the commands that mean a part of what a kept session read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from everlong.models.load import Loaded
    from everlong.session.session import Session

Source = Annotated[
    str | None,
    typer.Option("--source", metavar="FILE", help="A source: its path, or the end of it (`everlong sessions show`)."),
]
Start = Annotated[int | None, typer.Option("--start", min=0, help="First character of the source that is meant.")]
End = Annotated[int | None, typer.Option("--end", min=1, help="The character after the last one that is meant.")]
Tokens = Annotated[
    str | None, typer.Option("--tokens", metavar="A:B", help="Tokens A to B - 1 of the stream, instead of a source.")
]
Named = tuple[str | tuple[int, int], int | None, int | None]
"""A source or tokens, and the characters of the source."""


def named(source: str | None, start: int | None, end: int | None, tokens: str | None) -> Named:
    """What the options mean; ConfigError where they mean nothing or two things."""
    from everlong.errors import ConfigError

    if (source is None) == (tokens is None):
        raise ConfigError("span: give either --source FILE or --tokens A:B")
    if source is not None:
        return source, start, end
    first, colon, last = (tokens or "").partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()) or start is not None or end is not None:
        raise ConfigError(f"--tokens {tokens}: expected A:B, as in --tokens 100:200, without --start and --end")
    return (int(first), int(last)), None, None


@contextmanager
def opened(loaded: Loaded, store: Path | None, name: str, read_only: bool = False) -> Iterator[Session]:
    """The kept session of this name, attached; what is changed in it is kept."""
    from everlong.session.session import Session

    with Session.open(store, name, loaded, read_only=read_only) as session:
        yield session


def told(value: Any) -> dict[str, Any]:
    """A result ready for JSON."""
    from dataclasses import asdict

    return asdict(value)
