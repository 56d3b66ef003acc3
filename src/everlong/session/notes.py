"""Notes on what was read, by the model itself: a summary of each piece, and summaries of these up to one for the whole.

Each note is written in a short stream of its own, and then read into the session as a line of the source "notes: NAME",
so that it can come back, be cited and be forgotten as any text. A note is only as good as the model that wrote it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from everlong.errors import CapabilityError
from everlong.models.load import Loaded
from everlong.session.named_places import notes_name
from everlong.session.note_plan import NotePiece, NoteSettings, plan_notes
from everlong.session.note_writer import NoteWriter
from everlong.session.session import Session
from everlong.text.places import Kind, Place
from everlong.text.transcript import GONE, Source

NOTE_LEVEL = 0
"""The level of notes among places: each ends where the next begins."""
_CUT_OFF = " (cut off)\n"


@dataclass(frozen=True)
class NoteProgress:
    """One note, and what all notes have taken so far in this call.

    `read_tokens` were read to write them and `written_tokens` written, in streams of their own; `kept_tokens` were then
    read into the session. `is_new` is False for a note that was there already.
    """

    done: int
    total: int
    label: str
    text: str
    is_new: bool
    read_tokens: int = 0
    written_tokens: int = 0
    kept_tokens: int = 0
    seconds: float = 0.0


def write_notes(
    session: Session, source: Source, loaded: Loaded, settings: NoteSettings | None = None
) -> Generator[NoteProgress, None, None]:
    """Write the notes on a source that `session` has read, giving each when the session holds it.

    Notes that were written before, by the same settings on the same text, are not written again; those on what the
    source was before it changed are forgotten. A kept session makes a checkpoint after each, so that an interrupt costs
    the note that was being written. CapabilityError for a session that has no record of what it read.
    """
    if session.tokenizer is None or not session.remembers:
        raise CapabilityError("notes: this session has no record of what it read; use everlong.Blocks, or a store")
    with NoteWriter(loaded, settings or NoteSettings()) as writer:
        shelf = _Shelf(session, source, writer.settings)
        if shelf.is_complete:
            return
        yield from _write(session, source, writer, shelf)


def _write(session: Session, source: Source, writer: NoteWriter, shelf: _Shelf) -> Generator[NoteProgress, None, None]:
    plan = plan_notes(session.transcript, source, writer.settings)
    texts = [session.transcript.text(*piece.tokens) if not piece.made_of else "" for piece in plan]
    known = shelf.known()
    begun = time.perf_counter()
    kept = 0
    notes: list[str] = []
    for n, piece in enumerate(plan):
        text = known.get(_head(source.name, piece))
        if is_new := text is None:
            text = writer.note_on([notes[i] for i in piece.made_of]) if piece.made_of else writer.note(texts[n])
            kept += shelf.add(piece, text)
        notes.append(text)
        spent = (writer.read_tokens, writer.written_tokens, kept, time.perf_counter() - begun)
        yield NoteProgress(n + 1, len(plan), piece.label, text, is_new, *spent)
    shelf.finish()


def _head(name: str, piece: NotePiece) -> str:
    """What stands in front of a note: what it is about."""
    label = " ".join(piece.label.split())
    return f"Notes on {PurePath(name).name}, {label} (characters {piece.start}-{piece.end}):"


class _Shelf:
    """The source that holds the notes on another, in its session."""

    def __init__(self, session: Session, source: Source, settings: NoteSettings) -> None:
        self._session = session
        self._source = source
        self._settings = settings
        self._name = notes_name(source.name)
        self._digest = _digest(session, source, settings)
        self._parts = [s for s in self._every() if s.digest == self._digest]

    @property
    def is_complete(self) -> bool:
        """Whether all notes are there."""
        return any(s.done for s in self._parts)

    def known(self) -> dict[str, str]:
        """The notes that are there, by what stands in front of them; those on another text are forgotten first."""
        transcript = self._session.transcript
        settings = self._settings
        parts = [s for s in transcript.sources if s.name == self._source.name and s.digest != GONE]
        current = {_digest(self._session, s, settings) for s in parts}
        for old in self._every():
            if old.digest not in current:
                _forget(self._session, old)
        lines = [line for s in self._parts for line in transcript.text(*transcript.bounds(s)).split("\n")[:-1]]
        found = (line.strip().partition("):") for line in lines if not line.endswith(_CUT_OFF.strip()))
        return {head + colon: text.strip() for head, colon, text in found if colon}

    def add(self, piece: NotePiece, text: str) -> int:
        """Read a note into the session, and keep it there; the number of its tokens."""
        session = self._session
        transcript = self._session.transcript
        before = session.seen_tokens
        if not self._parts or self._parts[-1] is not transcript.sources[-1]:
            self._parts.append(transcript.begin(self._name, self._digest))
        shelf = self._parts[-1]
        self._end_line(shelf)
        start = transcript.chars(shelf, len(transcript.ids))
        session.feed(f"{_head(self._source.name, piece)} {text}\n", source=self._name)
        shelf.places = (*shelf.places, Place(_kind(self._source.places, piece), piece.title, start, NOTE_LEVEL))
        if session.kept:
            session.checkpoint()
        return session.seen_tokens - before

    def finish(self) -> None:
        """All notes are there."""
        if self._parts:
            self._parts[-1].done = True
        if self._session.kept:
            self._session.checkpoint()

    def _end_line(self, shelf: Source) -> None:
        """End the line of a note that an interrupt cut off, and say so in it."""
        transcript = self._session.transcript
        first, end = transcript.bounds(shelf)
        if first < end and not transcript.text(max(first, end - 4), end).endswith("\n"):
            self._session.feed(_CUT_OFF, source=self._name)

    def _every(self) -> list[Source]:
        return [s for s in self._session.transcript.sources if s.name == self._name and s.digest != GONE]


def _kind(places: Sequence[Place], piece: NotePiece) -> Kind:
    """The kind of the place that a note is about; a heading where it is about none, or about several."""
    return next((p.kind for p in places if p.title.startswith(piece.title)), "heading")


def _digest(session: Session, source: Source, settings: NoteSettings) -> str:
    """Tells whether notes are on this text and by these settings."""
    first, end = session.transcript.bounds(source)
    ids = session.transcript.ids[first:end].tobytes()
    return hashlib.sha256(ids + repr(settings).encode()).hexdigest()


def _forget(session: Session, source: Source) -> None:
    """Let notes on what a source was before never come back."""
    if session.method.answers:
        session.forget_source(source)
    source.digest = GONE
    source.done = False
