"""Sources read into a kept session: skipped where they were read, resumed where reading stopped, kept on the way."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from everlong.errors import BudgetError, InputError
from everlong.session.inputs import Tokens, row_pieces
from everlong.session.places import Place
from everlong.session.transcript import GONE, Source

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.session.session import Session

CHECKPOINT_TOKENS = 8192
"""A checkpoint is made after so many tokens,"""
CHECKPOINT_S = 30.0
"""or so many seconds: what a crash can cost."""


@dataclass(frozen=True)
class Document:
    """A text with its name, and a digest that tells whether it has changed."""

    name: str
    digest: str
    texts: Iterable[str]
    places: list[Place] = field(default_factory=list)
    """Its chapters, headings and pages: those that are found while `texts` go by."""


def known(session: Session, document: Document) -> Source | None:
    """The source that this document was read as last; None if it never was."""
    return _last(session.transcript.sources, document)


def _last(sources: Iterable[Source], document: Document) -> Source | None:
    found = [s for s in sources if s.name == document.name]
    return found[-1] if found else None


def is_read(session: Session, document: Document) -> bool:
    """Whether the document was read to its end as it is now."""
    return is_read_in(session.transcript.sources, document)


def is_read_in(sources: Iterable[Source], document: Document) -> bool:
    """Whether the document is one of these sources, to its end and as it is now."""
    source = _last(sources, document)
    return source is not None and source.done and source.digest == document.digest


def changed(sources: Iterable[Source], document: Document) -> bool:
    """Whether the document was read, and is not what it was then."""
    found = [s for s in sources if s.name == document.name and s.digest != GONE]
    return bool(found) and found[-1].digest != document.digest


class Checkpoints:
    """Keeps a session while it reads: after so many tokens or CHECKPOINT_S seconds, whichever comes first."""

    def __init__(self, session: Session, every: int) -> None:
        self._session, self._every = session, every
        self._kept()

    @property
    def due(self) -> bool:
        """Whether it is time for one."""
        return self._session.seen_tokens - self._at >= self._every or time.monotonic() - self._when >= CHECKPOINT_S

    def make(self) -> None:
        """Make one now."""
        self._session.checkpoint()
        self._kept()

    def _kept(self) -> None:
        self._at, self._when = self._session.seen_tokens, time.monotonic()


def read_document(session: Session, document: Document, every: int = CHECKPOINT_TOKENS) -> Generator[int, None, None]:
    """Reads a document to its end, giving the number of its tokens read so far after each chunk.

    A document whose reading was cut off goes on where it stopped; one that has changed is read anew, and the blocks of
    what it was are dropped (tokens read after it keep traces of it). A checkpoint is made every so many tokens, every
    CHECKPOINT_S seconds, and where reading ends early between two chunks: the iterator is left, the budget is full, the
    text cannot be read further.
    """
    source, transcript = known(session, document), session.transcript
    resumes = source is not None and not source.done and source.digest == document.digest
    if source is None or not resumes or source is not transcript.sources[-1]:
        if source is not None:
            session.forget_source(source)
        source = transcript.begin(document.name, document.digest)
    done, checkpoints = session.seen_tokens - source.first, Checkpoints(session, every)
    found = row_pieces(document.texts, session.tokenizer, session.vocabulary, special=source.first == 0)
    try:
        for rows in _after(found, done):
            for piece in rows.split(min(every, session.chunk)):
                session.feed(Tokens(piece), source=document.name)
                if checkpoints.due:
                    source.places = _sorted(document.places)
                    checkpoints.make()
                yield session.seen_tokens - source.first
    except (GeneratorExit, BudgetError, InputError):
        source.places = _sorted(document.places)
        if session.kept:
            checkpoints.make()
        raise
    source.done, source.places = True, _sorted(document.places)


def _sorted(places: Iterable[Place]) -> tuple[Place, ...]:
    """The places by where they begin, those of the same kind at the same character once."""
    once = {(p.start, p.kind): p for p in places}
    return tuple(once[key] for key in sorted(once))


def _after(found: Iterable[Tensor], skipped: int) -> Iterator[Tensor]:
    """The tokens behind the first `skipped`."""
    for rows in found:
        if skipped < len(rows):
            yield rows[skipped:]
        skipped = max(0, skipped - len(rows))
