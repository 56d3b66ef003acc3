"""What a sub-task is given to make a sample from, and what it makes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from everlong.evaluate.haystack import Size


@dataclass(frozen=True)
class RulerCell:
    """One sample that is to be made."""

    rng: random.Random
    tokens: int
    """Of text and question."""
    count: Size
    size: Size
    """Of pieces within a text."""
    essay: Iterator[str]


class RulerText(NamedTuple):
    """A text, the question behind it, and the answers that must all be given."""

    context: str
    question: str
    gold: tuple[str, ...]
    max_new_tokens: int
