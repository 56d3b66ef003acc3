"""Forgetting: the blocks of a span dropped, its ids replaced, and both overwritten where they were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everlong.errors import CapabilityError
from everlong.session import pinning
from everlong.session.named_places import notes_name
from everlong.text.transcript import GONE, TokenRange

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream
    from everlong.library.checkpoint import Checkpointer


@dataclass(frozen=True)
class Forgotten:
    """What went: `tokens` that were asked for, `blocks` dropped, `neighbour_tokens` that shared a block with them.

    `shared_blocks` are still needed by a fork: this session cannot read them, and their bytes are overwritten when the
    last session that needs them forgets them or is deleted.
    """

    tokens: int
    blocks: int
    neighbour_tokens: int
    shared_blocks: int = 0


def stretches(
    session: WritingStream, what: str | tuple[int, int], start: int | None, end: int | None
) -> list[TokenRange]:
    """The spans that are meant; of a whole source all that was read of it, and the notes on it."""
    if isinstance(what, str) and start is None and end is None:
        meant = pinning.named(session, what)
        notes = notes_name(meant[0].name)
        meant += [s for s in session.transcript.sources if s.name == notes and s.digest != GONE]
        found = [session.transcript.bounds(source) for source in meant]
        return [TokenRange(*bounds) for bounds in found if bounds[0] < bounds[1]]
    return [pinning.span(session, what, start, end)]


def forget(session: WritingStream, spans: Sequence[TokenRange], checkpointer: Checkpointer | None) -> Forgotten:
    """Forget `spans`; CapabilityError, with nothing changed, for tokens that are not in stored blocks alone.

    Nor are they where layers of the model fold all that they read into a state.
    """
    memory = session.stored("forget")
    if session.report().state_bytes:
        raise CapabilityError(
            "forget: linear layers of this model hold all that was read in compressed form, from which nothing can be "
            "taken out; forget with --reread, which reads everything else anew"
        )
    nothing = memory.settings.sinks, memory.settings.sinks
    _check(spans, *(memory.rows[0].forgettable(session.seen_tokens) if memory.rows else nothing))
    row = memory.rows[0]
    if checkpointer is not None:
        checkpointer.checkpoint(session)
    gone = frozenset(n for s in spans for n in row.blocks_touching(*s))
    before = row.dropped
    row.drop(gone)
    row.set_pins(p for p in row.pins if not any(p.meets(*s) for s in spans))
    for s in spans:
        session.forget_recent(*s)
    tokens = sum(s.end - s.first for s in spans)
    asked = {t for s in spans for t in range(*s)}
    neighbours = sum(t not in asked for n in gone - before for t in range(*row.block_range(n)))
    shared = 0 if checkpointer is None else checkpointer.forget(session, spans, gone)
    return Forgotten(tokens, len(gone - before), neighbours, shared)


def _check(spans: Sequence[TokenRange], first: int, end: int) -> None:
    for s in spans:
        if s.first < first or s.end > end:
            where = (
                "among the sinks" if s.first < first else "in the window or behind it, not yet in a block of their own"
            )
            raise CapabilityError(
                f"forget: tokens {s.first}:{s.end} are partly {where} (as they are, {first}:{end} can be forgotten); "
                "forget them with --reread, or read on first"
            )
