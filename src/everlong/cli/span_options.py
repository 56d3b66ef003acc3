"""A part of what a kept session read: what the options of pin, unpin and forget mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everlong.cli.groups import SpanOptions
from everlong.errors import ConfigError
from everlong.models.load import Loaded
from everlong.session.session import Session

Named = tuple[str | tuple[int, int], int | None, int | None]
"""A source or tokens, and the characters of the source."""


def named(given: SpanOptions) -> Named:
    """What the options mean; ConfigError where they mean nothing or two things."""
    if (given.source is None) == (given.tokens is None):
        raise ConfigError("span: give either --source FILE or --tokens A:B")
    if given.source is not None:
        return given.source, given.start, given.end
    first, colon, last = (given.tokens or "").partition(":")
    in_source = given.start is not None or given.end is not None
    if not (colon and first.isdecimal() and last.isdecimal()) or in_source:
        raise ConfigError(f"--tokens {given.tokens}: expected A:B, as in --tokens 100:200, without --start and --end")
    return (int(first), int(last)), None, None


@contextmanager
def opened(loaded: Loaded, store: Path | None, name: str, read_only: bool = False) -> Iterator[Session]:
    """The kept session of this name, attached; what is changed in it is kept."""
    with Session.open(store, name, loaded, read_only=read_only) as session:
        yield session


def told(value: Any) -> dict[str, Any]:
    """A result ready for JSON."""
    return asdict(value)
