"""A kept session built anew from what it read: without what is to be forgotten, with changed sources as they are now.

No older state of a stream is kept, so that all of it is read again, into a session NAME~reread beside it. An interrupt
leaves that session; the same call goes on with it. At the end the two change names in one transaction, and the old one
is deleted.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from everlong.engine.writing import ANSWERING_TOKENS
from everlong.errors import ConfigError, SessionError
from everlong.library.catalog import SessionRecord
from everlong.library.journal import pending
from everlong.library.kept_text import kept_transcript
from everlong.library.library import Library
from everlong.library.naming import BESIDE
from everlong.methods.blocks.pins import Pin
from everlong.models.load import Loaded
from everlong.session.ingest import CHECKPOINT_TOKENS, Checkpoints, Document, is_read, known, parts, read_document
from everlong.session.session import Session
from everlong.text.images import DIGEST
from everlong.text.inputs import Tokens
from everlong.text.offsets import plain_rows
from everlong.text.places import Place
from everlong.text.tokenize import special_ids
from everlong.text.transcript import ANSWER, GONE, PROMPT, Source, TokenRange, Transcript


@dataclass(frozen=True)
class RereadPart:
    """Tokens `first` .. `end - 1` of the old stream, all of one source; or the document that takes their place."""

    source: Source
    first: int
    end: int
    document: Document | None = None


@dataclass(frozen=True)
class RebuildProgress:
    """Tokens of the new stream so far, and the pins that found no room in it (known at the end)."""

    tokens: int
    lost_pins: int = 0


def reread(
    library: Library,
    name: str,
    loaded: Loaded,
    chunk: int,
    spans: Sequence[TokenRange],
    documents: Sequence[Document] = (),
) -> Generator[RebuildProgress, None, None]:
    """Build the session `name` anew without `spans`, and with `documents` in the place of the sources of their name.

    Every token of the stream is read again; where the iterator is left early, what was read is kept. SessionError if
    such a reread, of something else, was begun before.
    """
    delete_leftover(library, name)
    _settle(library, name, loaded, chunk)
    entry = library.entry(name)
    # Held to the end: what another process read into the old session meanwhile would be lost with it.
    with library.locked(entry):
        old = kept_transcript(library, entry, loaded.tokenizer)
        gone = [*spans, *library.forgotten(entry)]
        _check_images(old, gone)
        with _beside(library, entry, loaded, chunk, _plan(old, gone, documents)) as new:
            rebuild = _Rebuild(new, old, _parts(old, gone, documents))
            yield from rebuild.read()
            lost = rebuild.pin(Pin(**pin) for pin in library.pins(entry))
            tokens = new.seen_tokens
        library.swap(name, _beside_name(name), _old_name(name))
    library.delete(_old_name(name))
    yield RebuildProgress(tokens, lost)


def _check_images(old: Transcript, gone: Sequence[TokenRange]) -> None:
    """SessionError where an image would have to be read again: its points are not kept."""
    for source in old.sources:
        first, end = old.bounds(source)
        if source.digest.startswith(DIGEST) and not any(s.first <= first and end <= s.end for s in gone):
            raise SessionError(
                f"reread: {source.name!r} is an image, whose points are not kept, so that it cannot be read again; "
                "forget without --reread (everlong forget), or read into a new session"
            )


def _settle(library: Library, name: str, loaded: Loaded, chunk: int) -> None:
    """Let a checkpoint have what a session that was killed has noted since its last one."""
    if pending(library.place(library.entry(name))):
        with Session.open(library.folder, name, loaded, chunk):
            pass


def kept_so_far(library: Library, name: str) -> int:
    """Tokens that a reread of the session `name` has kept, if it was cut off."""
    entry = library.find(_beside_name(name))
    return 0 if entry is None else entry.tokens


def delete_leftover(library: Library, name: str) -> None:
    """Delete the session that a reread has replaced, where a crash left it."""
    if library.find(_old_name(name)) is not None:
        library.delete(_old_name(name))


def _beside_name(name: str) -> str:
    return f"{name}{BESIDE}"


def _old_name(name: str) -> str:
    return f"{name}~old"


def _plan(old: Transcript, gone: Sequence[TokenRange], documents: Iterable[Document]) -> str:
    """What tells one reread from another."""
    facts = {
        "tokens": len(old.ids),
        "spans": sorted(map(list, gone)),
        "documents": [d.digest.partition(":")[0] for d in documents],
    }
    return json.dumps(facts, sort_keys=True)


def _beside(library: Library, entry: SessionRecord, loaded: Loaded, chunk: int, plan: str) -> Session:
    """The new session: begun now, or gone on with."""
    name = _beside_name(entry.name)
    if library.find(name) is None:
        new = Session(loaded, entry.made_method(), chunk, library.folder, name)
        library.note(_fact(library.entry(name)), plan)
        return new
    if library.noted(_fact(library.entry(name))) not in (plan, None):
        raise SessionError(
            f"session {name!r}: was begun by a reread of other spans or files; give these again, or remove it with "
            f"`everlong sessions delete {shlex.quote(name)} --store {shlex.quote(str(library.folder))}`"
        )
    return Session.open(library.folder, name, loaded, chunk)


def _fact(entry: SessionRecord) -> str:
    return f"reread {entry.id}"


def _parts(old: Transcript, gone: Sequence[TokenRange], documents: Iterable[Document]) -> list[RereadPart]:
    """What the new stream is made of, in order."""
    found = list[RereadPart]()
    changed = {id(source): d for d in documents for source in parts(old.sources, d)}
    for source in old.sources:
        begin, end = old.bounds(source)
        document = changed.get(id(source))
        if source.digest == GONE or begin == end:
            continue
        # A document that was read in parts is read again as one, where its first part stood.
        if document is not None and document not in [p.document for p in found]:
            found.append(RereadPart(source, begin, end, document))
        elif document is None:
            found += [RereadPart(source, a, b) for a, b in _without(begin, end, gone) if a < b]
    return found


def _without(begin: int, end: int, gone: Sequence[TokenRange]) -> Iterator[tuple[int, int]]:
    """The runs of `begin` .. `end - 1` that lie in none of the spans."""
    for first, last in sorted(gone):
        if first < end and last > begin:
            yield begin, max(begin, first)
            begin = max(begin, last)
    yield begin, end


class _Rebuild:
    """Reads the parts of an old stream into a new session, from where that stands."""

    def __init__(self, new: Session, old: Transcript, parts: list[RereadPart]) -> None:
        self.new = new
        self.old = old
        self.parts = parts
        self.places: list[tuple[int, int, int]] = []
        self._checkpoints = Checkpoints(new, CHECKPOINT_TOKENS)

    def read(self) -> Iterator[RebuildProgress]:
        """Read what is still to be read, with checkpoints; what the new session holds after each piece."""
        try:
            yield from self._read()
        except GeneratorExit:
            self._checkpoints.make()
            raise

    def _read(self) -> Iterator[RebuildProgress]:
        at = 0
        for part in self.parts:
            if part.document is not None:
                yield from self._read_document(part.document)
                at = self._end_of(part.document)
                continue
            lead = self._lead(part) if at == 0 else []
            kept = self.old.rows(part.source, part.first, part.end)
            rows = torch.from_numpy(np.concatenate([plain_rows(lead), kept]))
            self.places.append((part.first, part.end, at + len(lead)))
            yield from self._read_part(part, rows, at)
            at += len(rows)

    def pin(self, pins: Iterable[Pin]) -> int:
        """Pin the same text as before; how many pins have no text, or found no room, any more."""
        lost = 0
        for pin in pins:
            spans = [(max(a, pin.first) - a + at, min(b, pin.end) - a + at) for a, b, at in self.places]
            spans = [(first, end) for first, end in spans if first < end]
            try:
                if spans:
                    span = min(spans)[0], max(spans)[1]
                    self.new.pin(span, always=pin.always, keep=pin.keep)
                lost += not spans
            except ConfigError:
                lost += 1
        return lost

    def _lead(self, part: RereadPart) -> list[int]:
        """The tokens in front of every stream, where the part that had them is gone."""
        before = [] if self.new.tokenizer is None else special_ids(self.new.tokenizer)[0]
        return before if part.first and self.old.ids[: len(before)].tolist() == before else []

    def _read_part(self, part: RereadPart, rows: torch.Tensor, at: int) -> Iterator[RebuildProgress]:
        transcript = self.new.transcript
        seen = self.new.seen_tokens
        if seen <= at:
            source = transcript.begin(part.source.name)
            chars = 0 if self.new.tokenizer is None else self.old.chars(part.source, part.first)
            source.marks = [(source.first, chars)]
        else:
            source = next(s for s in transcript.sources if s.first == at and transcript.bounds(s)[1] > at)
        source.places = self._places(part)
        source.lines = part.source.lines
        for piece, answering in self._cut(part, rows, max(0, seen - at)):
            self.new.feed(Tokens(piece), answering, source.name)
            yield self._noted()
        whole = (part.first, part.end) == self.old.bounds(part.source)
        source.digest = part.source.digest if part.source.done or whole else ""
        source.done = part.source.done

    def _places(self, part: RereadPart) -> tuple[Place, ...]:
        """The chapters and headings that begin in a part."""
        if self.new.tokenizer is None:
            return ()
        low, high = (self.old.chars(part.source, token) for token in (part.first, part.end))
        return tuple(p for p in part.source.places if low <= p.start < high)

    def _cut(self, part: RereadPart, rows: torch.Tensor, done: int) -> Iterator[tuple[torch.Tensor, bool]]:
        """The tokens behind the first `done` in pieces; those that chose for themselves do so again."""
        tail = {ANSWER: len(rows), PROMPT: min(len(rows), ANSWERING_TOKENS)}.get(part.source.name, 0)
        early = len(rows) - tail
        for first, end, answering in ((min(done, early), early, False), (max(done, early), len(rows), True)):
            for piece in rows[first:end].split(min(CHECKPOINT_TOKENS, self.new.chunk)) if first < end else ():
                yield piece, answering

    def _read_document(self, document: Document) -> Iterator[RebuildProgress]:
        if not is_read(self.new, document):
            for _ in read_document(self.new, document, CHECKPOINT_TOKENS):
                yield RebuildProgress(self.new.seen_tokens)

    def _end_of(self, document: Document) -> int:
        source = known(self.new, document)
        assert source is not None
        return self.new.transcript.bounds(source)[1]

    def _noted(self) -> RebuildProgress:
        """What the session holds now; a checkpoint now and then."""
        if self._checkpoints.due:
            self._checkpoints.make()
        return RebuildProgress(self.new.seen_tokens)
