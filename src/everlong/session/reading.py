"""Sources read into a kept session: skipped where they were read, resumed where reading stopped, kept on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from everlong.session.inputs import Tokens, row_pieces
from everlong.session.places import Place
from everlong.session.transcript import GONE, Source

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.session.session import Session

CHECKPOINT_TOKENS = 8192
"""A checkpoint is made after so many tokens: what a crash can cost."""


@dataclass(frozen=True)
class Document:
    """A text with its name, and a digest that tells whether it has changed."""

    name: str
    digest: str
    texts: Iterable[str]
    places: list[Place] = field(default_factory=list)
    """Its chapters, headings and pages: those that are found while `texts` go by."""
    allow_special: bool = False
    """Whether what it spells may become a control token; its digest then tells so."""


def known(session: Session, document: Document) -> Source | None:
    """The source that this document was read as last; None if it never was."""
    found = [s for s in session.transcript.sources if s.name == document.name]
    return found[-1] if found else None


def is_read(session: Session, document: Document) -> bool:
    """Whether the document was read to its end as it is now."""
    source = known(session, document)
    return source is not None and source.done and source.digest == document.digest


def changed(sources: Iterable[Source], document: Document) -> bool:
    """Whether the document was read, and is not what it was then."""
    found = [s for s in sources if s.name == document.name and s.digest != GONE]
    return bool(found) and found[-1].digest != document.digest


def read_document(session: Session, document: Document, every: int = CHECKPOINT_TOKENS) -> Iterator[int]:
    """Reads a document to its end, giving the number of its tokens read so far after each piece.

    A document whose reading was cut off goes on where it stopped; one that has changed is read anew, and the blocks of
    what it was are dropped (tokens read after it keep traces of it). A checkpoint is made every so many tokens.
    """
    source, transcript = known(session, document), session.transcript
    resumes = source is not None and not source.done and source.digest == document.digest
    if source is None or not resumes or source is not transcript.sources[-1]:
        if source is not None:
            session.forget_source(source)
        source = transcript.begin(document.name, document.digest)
    done, kept_at = session.seen_tokens - source.first, session.seen_tokens
    first, allowed = source.first == 0, document.allow_special or session.allow_special
    found = row_pieces(document.texts, session.tokenizer, session.vocabulary, first, allowed)
    for rows in _after(found, done):
        for piece in rows.split(every):
            session.feed(Tokens(piece), source=document.name)
            if session.seen_tokens - kept_at >= every:
                source.places = _sorted(document.places)
                session.checkpoint()
                kept_at = session.seen_tokens
            yield session.seen_tokens - source.first
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
