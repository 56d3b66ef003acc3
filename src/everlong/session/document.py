"""A text that is to be read, with its name and what tells whether it has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from everlong.text.places import Place


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
    has_lines: bool = True
    """Whether the lines of `texts` are those of the file, as people count them."""
    allow_special: bool = False
    """Whether what it spells may become a control token; its digest then tells so."""
    called: str = ""
    earlier: Callable[[str], int | None] = lambda digest: None
