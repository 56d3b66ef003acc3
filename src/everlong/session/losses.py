"""What a session has read and cannot look at any more, by the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from everlong.text.source_names import short_names
from everlong.text.transcript import GONE, TokenRange

if TYPE_CHECKING:
    from everlong.session.session import Session


@dataclass(frozen=True)
class Losses:
    """Tokens that are lost, each counted once, and the sources of which only a part was read.

    `forgotten`: the blocks of what was to be forgotten; `changed`: of sources that were read anew since; `given_up`:
    blocks that gave way to a budget or were damaged; `left`: tokens that left the window of a method that stores none.
    `compressed` ones are not lost but not whole either: they live on in a trained memory.
    """

    forgotten: int = 0
    changed: int = 0
    given_up: int = 0
    left: int = 0
    compressed: int = 0
    unfinished: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether all that was to be read can be looked at."""
        return self == Losses()


def losses(session: Session) -> Losses:
    """What the session has lost so far."""
    report = session.report()
    by_reason = {"left": report.dropped_tokens}
    if session.method.answers and (memory := session.stored("report")).rows:
        by_reason = dict.fromkeys(("forgotten", "changed", "given_up"), 0)
        sources = [s for s in session.transcript.sources if s.digest == GONE]
        changed = [TokenRange(*session.transcript.bounds(s)) for s in sources]
        for block in memory.rows[0].dropped:
            first, end = memory.rows[0].block_range(block)
            reason = "changed" if _meets(changed, first, end) else "given_up"
            by_reason["forgotten" if _meets(session.keeping.forgotten, first, end) else reason] += end - first
    return Losses(**by_reason, compressed=report.compressed_tokens, unfinished=_unfinished(session))


def _meets(spans: list[TokenRange], first: int, end: int) -> bool:
    return any(s.first < end and first < s.end for s in spans)


def _unfinished(session: Session) -> tuple[str, ...]:
    """The short names of documents whose reading was cut off and that were not read on since."""
    sources = session.transcript.sources
    shown = short_names(s.name for s in sources)
    last = {s.name: s for s in sources if s.digest not in ("", GONE)}
    return tuple(shown[name] for name, source in last.items() if not source.done)
