"""What is noted down of a session beside its tables: where its model comes from, which encoder it was read with."""

from __future__ import annotations

import json

from everlong.library.catalog import Catalog, SessionRecord

FACTS = ("citations", "encoder", "origin", "replies", "tools", "turns")
"""What the database notes down of a session beside its tables."""


def note(catalog: Catalog, name: str, value: str) -> None:
    """Note a fact down."""
    with catalog.database() as db:
        db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def noted(catalog: Catalog, name: str) -> str | None:
    """A fact that was noted down."""
    with catalog.database() as db:
        row = db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def facts(catalog: Catalog, entry: SessionRecord) -> dict[str, str]:
    """What else is noted down of a session, by name."""
    found = {what: noted(catalog, f"{what} {entry.id}") for what in FACTS}
    return {what: value for what, value in found.items() if value is not None}


def put_facts(catalog: Catalog, identity: str, found: dict[str, str]) -> None:
    """Note down what `facts` gave."""
    for what in set(FACTS).intersection(found):
        note(catalog, f"{what} {identity}", found[what])


def origin(catalog: Catalog, entry: SessionRecord) -> dict[str, str]:
    """Where the model of a session comes from, as far as it is known: model, dtype, weights, memory."""
    found = noted(catalog, f"origin {entry.id}")
    return {"model": entry.model} if found is None else json.loads(found)


def noted_encoder(catalog: Catalog, entry: SessionRecord) -> str | None:
    """The sentence encoder that a session was read with."""
    return noted(catalog, f"encoder {entry.id}")


def note_encoder(catalog: Catalog, entry: SessionRecord, encoder: str) -> None:
    """Note down which sentence encoder a session was read with."""
    note(catalog, f"encoder {entry.id}", encoder)
