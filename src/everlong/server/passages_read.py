"""What was read of the stored tokens for an answer: where it lies in the stream, its text and its place in a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from everlong.session.citations import cited

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream
    from everlong.session.recall import Recalled

MOST_PASSAGES = 32


def read_again(stream: WritingStream, shown: Sequence[Recalled], question: str) -> list[dict[str, Any]]:
    """The passages that were read again for an answer, in their order in the stream."""
    found = []
    for p in shown[:MOST_PASSAGES]:
        where = asdict(cited(stream.transcript, p, p.share, p.sentence, question))
        found.append(where | {"first": p.first, "last": p.last, "way": "again"})
    return found


def attended(stream: WritingStream) -> list[dict[str, Any]]:
    """The stored blocks that the last answer attended to most, in their order in the stream; none without a store."""
    rows = stream.stored("passages").rows if stream.method.answers else []
    masses = rows[0].done.cited if rows else {}
    total = sum(masses.values()) or 1.0
    found = []
    for block in sorted(sorted(masses, key=lambda n: -masses[n])[:MOST_PASSAGES]):
        first, last = rows[0].block_range(block)
        passage = max(stream.transcript.passages(first, last), key=lambda p: len(p.text))
        where = asdict(cited(stream.transcript, passage, masses[block] / total))
        found.append(where | {"first": first, "last": last, "way": "blocks"})
    return found
