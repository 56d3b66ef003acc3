"""Whole sentences in a piece of text: what a reader is shown, and where a passage is cut."""

from __future__ import annotations

import re

_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[”』」）]*|\n\s*\n)\s*")
"""The end of a sentence, or of a paragraph, with the space behind it."""
LOOSE = 3
"""Up to one part in so many may be cut off at either end of a passage to begin and end with a sentence."""


def starts(text: str) -> list[int]:
    """Where sentences begin in `text`, the place behind its last one included; not 0, whose sentence may be cut."""
    return [found.end() for found in _END.finditer(text)]


def whole(text: str) -> tuple[int, int]:
    """Where the whole sentences of `text` begin and end; its own bounds where that would cut off too much of it."""
    found = starts(text)
    early = [at for at in found if at <= len(text) // LOOSE]
    late = [at for at in found if at >= len(text) - len(text) // LOOSE]
    return (early[0] if early else 0), (late[-1] if late else len(text))


def around(text: str, at: int) -> tuple[int, int]:
    """The sentence that holds character `at`, as (start, end); cut where the text is."""
    found = [0, *starts(text), len(text)]
    start = max(place for place in found if place <= at)
    end = min((place for place in found if place > at), default=len(text))
    return start, end
