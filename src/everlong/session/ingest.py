"""Sources read into a kept session: skipped where they were read, resumed where reading stopped, kept on the way."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from everlong.errors import BudgetError, InputError
from everlong.session.document import Document
from everlong.text.inputs import Tokens, row_pieces
from everlong.text.lines import Lines
from everlong.text.places import Place
from everlong.text.source_names import endings, resolved
from everlong.text.transcript import GONE, Source

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.session.session import Session

CHECKPOINT_TOKENS = 8192
"""A checkpoint is made after so many tokens,"""
CHECKPOINT_S = 30.0
"""or so many seconds: what a crash can cost."""
_resolved = functools.lru_cache(maxsize=4096)(resolved)


def parts(sources: Iterable[Source], document: Document) -> list[Source]:
    """What was read of a document and not forgotten, in order: more than one part where it has grown since."""
    return [s for s in sources if s.digest != GONE and _is_of(s, document)]


def known(session: Session, document: Document) -> Source | None:
    """The source that this document was read as last; None if it never was."""
    found = parts(session.transcript.sources, document)
    return found[-1] if found else None


def is_read(session: Session, document: Document) -> bool:
    """Whether the document was read to its end as it is now."""
    return is_read_in(session.transcript.sources, document)


def is_read_in(sources: Iterable[Source], document: Document) -> bool:
    """Whether the document is one of these sources, to its end and as it is now."""
    found = parts(sources, document)
    return bool(found) and found[-1].done and _is_same(found[-1].digest, document)


def unread(sources: Iterable[Source], document: Document) -> tuple[Document, int] | None:
    """What reading will take of the document, all or what was added to it, and of how many bytes; None if nothing."""
    found = parts(sources, document)
    if is_read_in(found, document):
        return None
    whole = [s for s in found if s.done]
    begin = document.earlier(whole[-1].digest) if whole else None
    size = _bytes(document.digest)
    if begin is None:
        return document, size
    return replace(document, texts=_behind(document.texts, begin)), size - _bytes(whole[-1].digest)


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


class Checkpoints:
    """Keeps a session while it reads: after so many tokens or CHECKPOINT_S seconds, whichever comes first.

    `keep` is called in the place of its `checkpoint`, by who makes one before the session reads on.
    """

    def __init__(self, session: Session, every: int, keep: Callable[[], None] | None = None) -> None:
        self._session = session
        self._every = every
        self._keep = session.checkpoint if keep is None else keep
        self._kept()

    @property
    def due(self) -> bool:
        """Whether it is time for one."""
        return self._session.seen_tokens - self._at >= self._every or time.monotonic() - self._when >= CHECKPOINT_S

    def make(self) -> None:
        """Make one now."""
        self._keep()
        self._kept()

    def _kept(self) -> None:
        self._at, self._when = self._session.seen_tokens, time.monotonic()


def read_document(
    session: Session, document: Document, every: int = CHECKPOINT_TOKENS, keep: Callable[[], None] | None = None
) -> Generator[int, None, None]:
    """Read a document to its end, giving the number of its tokens read so far after each chunk.

    A document whose reading was cut off goes on where it stopped; of one that has grown what was added is read, as a
    part of its own. One that has changed is read anew, and the blocks of what it was are dropped (tokens read after it
    keep traces of it). A checkpoint is made every so many tokens, every CHECKPOINT_S seconds, and where reading ends
    early between two chunks: the iterator is left, the budget is full, the text cannot be read further. With `keep`,
    that is called instead, and whoever asks for the chunks is to make the checkpoint before the next.
    """
    source = _part(session, document)
    done = session.seen_tokens - source.first
    checkpoints = Checkpoints(session, every, keep)
    begin = source.marks[0][1]
    lines = Lines()
    texts = _behind(lines.through(document.texts), begin)
    allowed = document.allow_special or session.allow_special

    def note() -> None:
        source.places = _sorted(document.places, begin)
        source.lines = lines.packed(begin) if document.has_lines else ""

    found = row_pieces(texts, session.tokenizer, session.vocabulary, source.first == 0, allowed)
    try:
        for rows in _after(found, done):
            at = 0
            while at < len(rows):
                piece = rows[at : at + min(every, session.chunk)]
                at += len(piece)
                session.feed(Tokens(piece), source=source.name)
                if checkpoints.due:
                    note()
                    checkpoints.make()
                yield session.seen_tokens - source.first
    except (GeneratorExit, BudgetError, InputError):
        # These come between two chunks, where all that was read is whole.
        note()
        if session.kept:
            checkpoints.make()
        raise
    note()
    source.done = True


def read_before(session: Session, document: Document) -> int:
    """How many tokens were read of the part of a document that reading it goes on with; 0 for one that begins."""
    source = _open_part(session, document)
    return 0 if source is None else session.seen_tokens - source.first


def tokens_of(session: Session, document: Document) -> int | None:
    """The tokens of the part that reading a document goes on with or begins; None where its text cannot be read."""
    source = _open_part(session, document)
    first = session.seen_tokens if source is None else source.first
    begin = _begin(session, document) if source is None else source.marks[0][1]
    allowed = document.allow_special or session.allow_special
    found = row_pieces(_behind(document.texts, begin), session.tokenizer, session.vocabulary, first == 0, allowed)
    try:
        return sum(map(len, found))
    except InputError:
        # Reading comes to the same place, keeps what stands before it and says what is wrong.
        return None


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


def _bytes(digest: str) -> int:
    """The size behind a digest, HASH:SIZE; 0 where there is none."""
    size = digest.rpartition(":")[2]
    return int(size) if ":" in digest and size.isdecimal() else 0


def _open_part(session: Session, document: Document) -> Source | None:
    """The part of a document that was cut off and can be read on; None if there is none."""
    found = parts(session.transcript.sources, document)
    if found and not found[-1].done and found[-1] is session.transcript.sources[-1]:
        return found[-1] if _is_same(found[-1].digest, document) else None
    return None


def _begin(session: Session, document: Document) -> int:
    """The character at which a new part of a document begins: behind what was read of it, if it has grown, else 0."""
    whole = [s for s in parts(session.transcript.sources, document) if s.done]
    return (_end_in(session, whole[-1], document) or 0) if whole else 0


def _part(session: Session, document: Document) -> Source:
    """The source that the document is read into: one that was cut off, or a new one for all of it or what was added."""
    if (part := _open_part(session, document)) is not None:
        return part
    found = parts(session.transcript.sources, document)
    begin = _begin(session, document)
    whole = [s for s in found if s.done]
    # Of a text that has grown what was cut off goes, and is read with what was added; of one that has changed all goes.
    for source in found[found.index(whole[-1]) + 1 :] if begin else found:
        session.forget_source(source)
    part = session.transcript.begin(document.name, document.digest)
    part.marks = [(part.first, begin)]
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
