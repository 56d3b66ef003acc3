"""Where facts and passages stand in a text, in characters.

Facts are found by their sentence, which stands in the text once. A passage says itself where it stands; where the text
has something else there, but holds the passage's text, that place counts. So no tokenizer needs to give offsets, what
is compared is what a reader would be shown, and a block of tokens is compared by the text of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from everlong.evaluate.recall.posed import Cited
from everlong.methods.base import Method
from everlong.text.tokenize import token_ids

_CHARS_PER_TOKEN = 8
"""Characters that hold so many tokens at the very least: those of a text are counted in a piece of it."""


class CharSpan(NamedTuple):
    """Characters `start` .. `end - 1` of a text."""

    start: int
    end: int

    def shared(self, other: CharSpan) -> int:
        """Characters that both have."""
        return max(0, min(self.end, other.end) - max(self.start, other.start))


def fact_span(text: str, fact: str) -> CharSpan:
    """Where the sentence stands."""
    start = text.index(fact)
    return CharSpan(start, start + len(fact))


def passage_span(text: str, passage: Cited) -> CharSpan:
    """Where the passage stands."""
    start = passage.start
    if text[start : passage.end] != passage.text and passage.text in text:
        start = text.index(passage.text)
        return CharSpan(start, start + len(passage.text))
    return CharSpan(start, passage.end)


def covered(text: str, span: CharSpan, spans: Iterable[CharSpan]) -> bool:
    """Whether the spans together hold all of `span`, spaces between two of them aside."""
    at = span.start
    for start, end in sorted(spans):
        if start <= at or not text[at:start].strip():
            at = max(at, end)
    return at >= span.end


def rank(fact: CharSpan, passages: Sequence[CharSpan]) -> int | None:
    """The place, from 1 on, of the first passage that holds at least half of the fact; None without one."""
    for n, passage in enumerate(passages, start=1):
        if 2 * fact.shared(passage) >= fact.end - fact.start:
            return n
    return None


def is_stored(tokenizer: Any, method: Method, text: str, fact: CharSpan) -> bool:
    """Whether the fact is among what a method that stores blocks must bring back.

    That is: it lies behind the sinks, and left the window, and so did the block that it ends in.
    """
    sinks, window = method.layout()
    if window is None:
        return False
    behind = window + getattr(method, "block", 0)
    before = text[: fact.start][: _CHARS_PER_TOKEN * sinks]
    after = text[fact.end :][: _CHARS_PER_TOKEN * behind]
    return len(token_ids(tokenizer, before)) >= sinks and len(token_ids(tokenizer, after)) >= behind
