"""Spans of what a session read: found by source, characters or tokens, pinned and let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlong.errors import InputError, SessionError, nearest
from everlong.memory.blocks.pins import Pin
from everlong.session.transcript import GONE, Source, Stretch

if TYPE_CHECKING:
    from everlong.session.session import Session


def named(session: Session, name: str) -> list[Source]:
    """The sources of this name that were not forgotten, oldest first; InputError names the nearest if there is none."""
    every = session.transcript.sources
    found = [s for s in every if s.name == name and s.digest != GONE]
    if not found:
        known = {s.name for s in every if s.digest != GONE}
        raise InputError(f"source {name!r}: was not read into this session, or is forgotten; {nearest(name, known)}")
    return found


def span(session: Session, what: str | tuple[int, int], start: int | None = None, end: int | None = None) -> Stretch:
    """The tokens of the newest source called `what`, of its characters `start` .. `end - 1`, or `what` itself."""
    transcript = session.transcript
    if not session.remembers:
        raise SessionError("span: this session keeps no record of what it read; use everlong.Blocks, or a store")
    if isinstance(what, str):
        source = named(session, what)[-1]
        if start is None and end is None:
            return Stretch(*transcript.bounds(source))
        if start is None or end is None:
            raise InputError(f"characters {start}:{end} of {what!r}: expected both a start and an end, or neither")
        return transcript.tokens_of(source, start, end)
    first, last = what
    if start is not None or end is not None or not 0 <= first < last <= session.seen_tokens:
        raise InputError(
            f"tokens {first}:{last}: expected a start and a later end in 0:{session.seen_tokens} (tokens read so far), "
            "and no characters"
        )
    return Stretch(first, last)


def pins(session: Session) -> tuple[Pin, ...]:
    """What is pinned; nothing before the first token."""
    rows = session.stored("pins").rows
    return rows[0].pins if rows else ()


def pin(
    session: Session, what: str | tuple[int, int], start: int | None, end: int | None, always: bool, keep: bool
) -> Pin:
    """Pins a span of `session`."""
    memory, found = session.stored("pin"), span(session, what, start, end)
    new = Pin(found.first, found.end, always, keep)
    memory.pin(new)
    return new


def unpin(session: Session, what: str | tuple[int, int], start: int | None, end: int | None) -> int:
    """Takes away the pins that meet a span; how many."""
    memory, found = session.stored("unpin"), span(session, what, start, end)
    kept = [p for p in pins(session) if not p.meets(*found)]
    gone = len(pins(session)) - len(kept)
    if gone:
        memory.set_pins(kept)
    return gone
