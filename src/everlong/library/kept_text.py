"""What a kept session says of its text: ids, sources with their places, lengths, and spans pinned, dropped, forgotten.

The functions whose first argument is `db` write, within the transaction that names a checkpoint.
"""

from __future__ import annotations

import base64
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from everlong.library.catalog import Catalog, SessionRecord
from everlong.library.journal import JOURNAL, SOURCES, Journal, JournalRecord
from everlong.text.places import Place
from everlong.text.transcript import Source, TokenRange, Transcript

LENGTH_TOKENS = 8192
"""Tokens whose lengths are one row of the database."""
_AGAIN_TOKENS = 128
"""Marks of so many tokens before the last checkpoint are put down again."""


def kept_transcript(catalog: Catalog, entry: SessionRecord, tokenizer: Any) -> Transcript:
    """What the last checkpoint of a session says that it read; fillers where it has forgotten."""
    found = Transcript(tokenizer)
    data = (catalog.place(entry) / "ids").read_bytes()[: 4 * entry.tokens]
    packed = [(first, base64.b64decode(part)) for first, part in lengths(catalog, entry)]
    found.load_ids(array("i", data[: len(data) // 4 * 4]), packed)
    blank(catalog, entry, found.ids)
    found.sources = sources(catalog, entry)
    return found


def noted(catalog: Catalog, entry: SessionRecord) -> Sequence[JournalRecord]:
    """What the session's journal has behind its last checkpoint, of a process that still runs or was killed."""
    return Journal(catalog.place(entry) / JOURNAL, entry.tokens).records


def tokens(catalog: Catalog, entry: SessionRecord) -> int:
    """Tokens of a session, those that its journal has included."""
    records = noted(catalog, entry)
    return records[-1].end if records else entry.tokens


def whole_transcript(catalog: Catalog, entry: SessionRecord, tokenizer: Any) -> Transcript:
    """What a session has read, what its journal has included."""
    found = kept_transcript(catalog, entry, tokenizer)
    for record in noted(catalog, entry):
        for kind, ids in record.runs:
            found.add(ids, SOURCES[kind])
    return found


def all_sources(catalog: Catalog, entry: SessionRecord) -> list[Source]:
    """What the session read, in order, what its journal has included."""
    found = sources(catalog, entry)
    at = entry.tokens
    for kind, ids in (run for record in noted(catalog, entry) for run in record.runs):
        if ids and (not found or found[-1].name != SOURCES[kind]):
            found.append(Source(SOURCES[kind], at))
        at += len(ids)
    return found


def blank(catalog: Catalog, entry: SessionRecord, ids: array[int]) -> None:
    """Put the filler in the place of the ids that were forgotten, whether or not the disk has it already."""
    with catalog.database() as db:
        for first, end, filler in db.execute(
            "SELECT first, end, filler FROM forgotten WHERE session = ?", (entry.id,)
        ).fetchall():
            for n in range(first, min(end, len(ids))):
                ids[n] = filler


def sources(catalog: Catalog, entry: SessionRecord) -> list[Source]:
    """What the session read, in order, with the marks of each source."""
    found = []
    with catalog.database() as db:
        query = "SELECT place, name, first, digest, done FROM sources WHERE session = ? ORDER BY place"
        lines = dict(db.execute("SELECT source, data FROM lines WHERE session = ?", (entry.id,)).fetchall())
        for place, name, first, digest, done in db.execute(query, (entry.id,)).fetchall():
            query = "SELECT token, chars FROM marks WHERE session = ? AND source = ? ORDER BY token"
            marks = db.execute(query, (entry.id, place)).fetchall()
            query = "SELECT kind, title, start, level FROM places WHERE session = ? AND source = ? ORDER BY start"
            places = tuple(Place(*row) for row in db.execute(query, (entry.id, place)).fetchall())
            found.append(Source(name, first, digest, bool(done), marks, places, lines.get(place, "")))
    return found


def lengths(catalog: Catalog, entry: SessionRecord) -> list[tuple[int, str]]:
    """The lengths of the tokens that the session read, as (first token, a byte for each in Base64)."""
    with catalog.database() as db:
        query = "SELECT token, data FROM lengths WHERE session = ? AND token < ? ORDER BY token"
        return db.execute(query, (entry.id, entry.tokens)).fetchall()


def dropped(catalog: Catalog, entry: SessionRecord) -> list[int]:
    """Blocks that were found damaged and given up by `verify`."""
    with catalog.database() as db:
        rows = db.execute("SELECT block FROM dropped WHERE session = ? ORDER BY block", (entry.id,)).fetchall()
    return [row[0] for row in rows]


def forgotten(catalog: Catalog, entry: SessionRecord) -> list[TokenRange]:
    """The spans that the session has forgotten."""
    with catalog.database() as db:
        rows = db.execute("SELECT first, end FROM forgotten WHERE session = ? ORDER BY first", (entry.id,)).fetchall()
    return [TokenRange(*row) for row in rows]


def pins(catalog: Catalog, entry: SessionRecord) -> list[dict[str, Any]]:
    """The spans that are pinned."""
    with catalog.database() as db:
        rows = db.execute(
            "SELECT first, end, always, keep FROM pins WHERE session = ? ORDER BY first, end", (entry.id,)
        ).fetchall()
    return [{"first": a, "end": b, "always": bool(always), "keep": bool(keep)} for a, b, always, keep in rows]


def keep(db: sqlite3.Connection, session: str, transcript: Transcript, kept: int, anew: bool) -> None:
    """Put down what a session has read behind its first `kept` tokens; `anew`: before them too."""
    for place, source in enumerate(transcript.sources):
        db.execute(
            "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?)",
            (session, place, source.name, source.digest, source.first, source.done),
        )
        marks = [
            (session, place, token, chars) for token, chars in source.marks if anew or token >= kept - _AGAIN_TOKENS
        ]
        db.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", marks)
    _keep_places(db, session, transcript.sources)
    _keep_lines(db, session, transcript.sources)
    rows = [(session, *row) for row in _length_rows(transcript, 0 if anew else kept)]
    db.executemany("INSERT OR REPLACE INTO lengths VALUES (?, ?, ?)", rows)


def _keep_places(db: sqlite3.Connection, session: str, sources: Sequence[Source]) -> None:
    """Put down where the chapters, headings and pages of these sources begin; titles that went are overwritten."""
    rows = {(session, n, p.start, p.kind, p.level, p.title) for n, source in enumerate(sources) for p in source.places}
    old = set(db.execute("SELECT * FROM places WHERE session = ?", (session,)).fetchall())
    # A title that goes may be one that was forgotten, and SQLite leaves deleted rows in its file unless told otherwise.
    if old - rows:
        db.execute("PRAGMA secure_delete = ON")
    key = "session = ? AND source = ? AND start = ? AND kind = ?"
    db.executemany(f"DELETE FROM places WHERE {key}", [row[:4] for row in old - rows])
    db.executemany("INSERT INTO places VALUES (?, ?, ?, ?, ?, ?)", sorted(rows - old))


def _keep_lines(db: sqlite3.Connection, session: str, sources: Sequence[Source]) -> None:
    """Put down where the lines of these sources begin, where that is not what was put down before."""
    old = dict(db.execute("SELECT source, data FROM lines WHERE session = ?", (session,)).fetchall())
    new = [(session, n, source.lines) for n, source in enumerate(sources) if source.lines != old.get(n, "")]
    db.executemany("INSERT OR REPLACE INTO lines VALUES (?, ?, ?)", new)


def _length_rows(transcript: Transcript, kept: int) -> Iterator[tuple[int, str]]:
    """The lengths of the tokens of a transcript, for the database, from the row on that has token number `kept`."""
    for first in range(kept - kept % LENGTH_TOKENS, len(transcript.ids), LENGTH_TOKENS):
        yield first, base64.b64encode(transcript.lengths[first : first + LENGTH_TOKENS]).decode()
