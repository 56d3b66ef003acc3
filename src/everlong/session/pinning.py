"""Spans of what a session read: found by source, characters or tokens, pinned and let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlong.errors import InputError, SessionError
from everlong.methods.blocks.pins import Pin
from everlong.text.source_names import full_name
from everlong.text.transcript import GONE, Source, TokenRange

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream


def named(session: WritingStream, name: str) -> list[Source]:
    """The sources of this name that were not forgotten, oldest first; InputError names the nearest if there is none.

    A file may be named by any path to it, or by the end of its path where no other source ends so.
    """
    every = [s for s in session.transcript.sources if s.digest != GONE]
    whole = full_name(name, (s.name for s in every))
    return [s for s in every if s.name == whole]


def span(
    session: WritingStream, what: str | tuple[int, int], start: int | None = None, end: int | None = None
) -> TokenRange:
    """The tokens of a source, of its characters `start` .. `end - 1`, or the tokens `what` themselves.

    Of a source that was read in parts (a log that grew) the part that has the character `start` is meant.
    """
    transcript = session.transcript
    if not session.remembers:
        raise SessionError("span: this session keeps no record of what it read; use everlong.Blocks, or a store")
    if isinstance(what, str):
        found = named(session, what)
        if start is None and end is None:
            if len(found) > 1 and found[-1].marks[0][1]:
                raise InputError(f"source {what!r}: was read in {len(found)} parts; give the characters that are meant")
            return TokenRange(*transcript.bounds(found[-1]))
        if start is None or end is None:
            raise InputError(f"characters {start}:{end} of {what!r}: expected both a start and an end, or neither")
        before = [s for s in found if s.marks[0][1] <= start]
        return transcript.tokens_of((before or found)[-1], start, end)
    first, last = what
    if start is not None or end is not None or not 0 <= first < last <= session.seen_tokens:
        raise InputError(
            f"tokens {first}:{last}: expected a start and a later end in 0:{session.seen_tokens} (tokens read so far), "
            "and no characters"
        )
    return TokenRange(first, last)


def pin(
    session: WritingStream, what: str | tuple[int, int], start: int | None, end: int | None, always: bool, keep: bool
) -> Pin:
    """Pin a span of `session`."""
    memory = session.stored("pin")
    found = span(session, what, start, end)
    new = Pin(found.first, found.end, always, keep)
    memory.rows[0].pin(new)
    return new


def unpin(session: WritingStream, what: str | tuple[int, int], start: int | None, end: int | None) -> int:
    """Take away the pins that meet a span; how many."""
    memory = session.stored("unpin")
    found = span(session, what, start, end)
    kept = [p for p in session.pins if not p.meets(*found)]
    gone = len(session.pins) - len(kept)
    if gone:
        memory.rows[0].set_pins(kept)
    return gone
