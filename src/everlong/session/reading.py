"""Sources read into a kept session: skipped where they were read, resumed where reading stopped, kept on the way."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from everlong.session.inputs import Tokens, row_pieces
from everlong.session.naming import endings, resolved
from everlong.session.places import Place
from everlong.session.transcript import GONE, Source

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.session.session import Session

CHECKPOINT_TOKENS = 8192
"""A checkpoint is made after so many tokens: what a crash can cost."""
_resolved = functools.lru_cache(maxsize=4096)(resolved)


@dataclass(frozen=True)
class Document:
    """A text with its name, and a digest that tells whether it has changed.

    `called` is what was typed for it: older versions named a source so. `earlier` says of an older digest how many
    characters its content had, where this content begins with it (a log that has grown), else None.
    """

    name: str
    digest: str
    texts: Iterable[str]
    places: list[Place] = field(default_factory=list)
    """Its chapters, headings and pages: those that are found while `texts` go by."""
    called: str = ""
    earlier: Callable[[str], int | None] = lambda digest: None


def parts(sources: Iterable[Source], document: Document) -> list[Source]:
    """What was read of a document and not forgotten, in order: more than one part where it has grown since."""
    return [s for s in sources if s.digest != GONE and _is_of(s, document)]


def known(session: Session, document: Document) -> Source | None:
    """The source that this document was read as last; None if it never was."""
    found = parts(session.transcript.sources, document)
    return found[-1] if found else None


def is_read(session: Session, document: Document) -> bool:
    """Whether the document was read to its end as it is now."""
    source = known(session, document)
    return source is not None and source.done and _is_same(source.digest, document)


def differs(sources: Iterable[Source], document: Document) -> bool:
    """Whether the document was read, and is not what it was then."""
    found = parts(sources, document)
    return bool(found) and not _is_same(found[-1].digest, document)


def changed(sources: Iterable[Source], document: Document) -> bool:
    """Whether the document was read, and neither is what it was then nor begins with it."""
    whole = [s for s in parts(sources, document) if s.done]
    return differs(sources, document) and (not whole or document.earlier(whole[-1].digest) is None)


def grown(session: Session, document: Document) -> bool:
    """Whether the document was read to its end, and has more behind it now."""
    whole = [s for s in parts(session.transcript.sources, document) if s.done]
    return (
        bool(whole) and not _is_same(whole[-1].digest, document) and _end_in(session, whole[-1], document) is not None
    )


def read_document(session: Session, document: Document, every: int = CHECKPOINT_TOKENS) -> Iterator[int]:
    """Reads a document to its end, giving the number of its tokens read so far after each piece.

    A document whose reading was cut off goes on where it stopped; of one that has grown what was added is read, as a
    part of its own. One that has changed is read anew, and the blocks of what it was are dropped (tokens read after it
    keep traces of it). A checkpoint is made every so many tokens.
    """
    source = _part(session, document)
    done, kept_at = session.seen_tokens - source.first, session.seen_tokens
    begin = source.marks[0][1]
    texts = _behind(document.texts, begin)
    found = row_pieces(texts, session.tokenizer, session.vocabulary, special=source.first == 0)
    for rows in _after(found, done):
        for piece in rows.split(every):
            session.feed(Tokens(piece), source=source.name)
            if session.seen_tokens - kept_at >= every:
                source.places = _sorted(document.places, begin)
                session.checkpoint()
                kept_at = session.seen_tokens
            yield session.seen_tokens - source.first
    source.done, source.places = True, _sorted(document.places, begin)


def _is_of(source: Source, document: Document) -> bool:
    """Whether a source is this document: by its name, or by what an older version called the same file or content."""
    if source.name == document.name:
        return True
    if not document.called or ":" in source.digest:
        return False
    if PurePath(source.name).is_absolute():
        return _resolved(source.name) == document.name
    same_name = source.name == document.called or os.path.normpath(source.name) in endings(document.name)
    return same_name and _is_same(source.digest, document)


def _is_same(digest: str, document: Document) -> bool:
    """Whether a digest is the document's; older versions kept no size behind it."""
    return digest == document.digest or digest == document.digest.partition(":")[0]


def _part(session: Session, document: Document) -> Source:
    """The source that the document is read into: one that was cut off, or a new one for all of it or what was added."""
    transcript = session.transcript
    found = parts(transcript.sources, document)
    if found and not found[-1].done and found[-1] is transcript.sources[-1] and _is_same(found[-1].digest, document):
        return found[-1]
    whole = [s for s in found if s.done]
    begin = _end_in(session, whole[-1], document) if whole else None
    for source in found if begin is None else found[found.index(whole[-1]) + 1 :]:
        session.forget_source(source)
    part = transcript.begin(document.name, document.digest)
    part.marks = [(part.first, begin or 0)]
    return part


def _end_in(session: Session, source: Source, document: Document) -> int | None:
    """The character of a document behind all that was read of it; None where it is not what it was."""
    transcript = session.transcript
    chars = transcript.chars(source, transcript.bounds(source)[1])
    return chars if document.earlier(source.digest) == chars else None


def _behind(texts: Iterable[str], chars: int) -> Iterator[str]:
    """The texts behind the first `chars` characters."""
    for text in texts:
        if chars < len(text):
            yield text[chars:]
        chars = max(0, chars - len(text))


def _sorted(places: Iterable[Place], begin: int) -> tuple[Place, ...]:
    """The places from the character `begin` on, those of the same kind at the same character once."""
    once = {(p.start, p.kind): p for p in places if p.start >= begin}
    return tuple(once[key] for key in sorted(once))


def _after(found: Iterable[Tensor], skipped: int) -> Iterator[Tensor]:
    """The tokens behind the first `skipped`."""
    for rows in found:
        if skipped < len(rows):
            yield rows[skipped:]
        skipped = max(0, skipped - len(rows))
