"""Cells: runs of tokens that share one choice of blocks. Where they begin depends on the tokens' indices only.

Reading, a cell begins at every multiple of `exec_chunk`, and where reading goes on after an answer. Answering, it
begins at every `choose_every`-th token of the answer. What a cell may choose from, and what is pending, is fixed at its
start, so that the result does not depend on how the input was cut.

Letters: S sinks, W window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from everlong.methods.blocks.boundaries import BlockBoundaries
from everlong.methods.blocks.fields import BlockSettings


@dataclass(frozen=True)
class RetrievalChunk:
    """Tokens `first` .. `end - 1` of a step (own indices). `sealed` blocks exist for it; `opens`: it begins here."""

    first: int
    end: int
    sealed: int
    opens: bool
    answering: bool


@dataclass(frozen=True)
class Cursor:
    """Where the cells stand between two steps: how the last token was read, where its run of tokens began.

    `changed`: what may be chosen from has changed, so that the next token begins a cell.
    """

    answering: bool = False
    start: int = 0
    sealed: int = 0
    changed: bool = False


def sealed_blocks(settings: BlockSettings, cuts: BlockBoundaries, first: int) -> int:
    """How many blocks lie wholly outside the window of token `first`: their last token is at distance >= W."""
    return cuts.before(first - settings.window + 1)


def begins_run(cursor: Cursor, first: int, answering: bool) -> bool:
    """Whether a run of tokens begins with token `first`."""
    return first == 0 or cursor.changed or cursor.answering != answering


def cells(
    settings: BlockSettings, cuts: BlockBoundaries, cursor: Cursor, first: int, end: int, answering: bool
) -> Iterator[RetrievalChunk]:
    """The cells of the tokens `first` .. `end - 1`, in order."""
    changes = begins_run(cursor, first, answering)
    start = first if changes else cursor.start
    sealed = cursor.sealed
    token = first
    while token < end:
        size, origin = (settings.choose_every, start) if answering else (settings.exec_chunk, 0)
        into = (token - origin) % size
        opens = into == 0 or (changes and token == first)
        sealed = sealed_blocks(settings, cuts, token) if opens else sealed
        after = min(end, token + size - into)
        yield RetrievalChunk(token, after, sealed, opens, answering)
        token = after


def moved(
    settings: BlockSettings, cuts: BlockBoundaries, cursor: Cursor, first: int, end: int, answering: bool
) -> Cursor:
    """The cursor after the tokens `first` .. `end - 1`."""
    found = list(cells(settings, cuts, cursor, first, end, answering))
    if not found:
        return cursor
    start = first if begins_run(cursor, first, answering) else cursor.start
    return Cursor(answering, start, found[-1].sealed)
