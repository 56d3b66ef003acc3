"""Whole sentences in a piece of text: what a reader is shown, and where a passage is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, TypeVar, runtime_checkable


@runtime_checkable
class HasText(Protocol):
    """A passage, whatever else is known of it."""

    @property
    def text(self) -> str:
        """What stands there."""
        ...


Said = TypeVar("Said", bound=HasText)
_END = re.compile(r"(?:[.!?…]+[\"'”’)\]]*(?=\s+[^\sa-z]|\s*$)|[。！？]+[”』」）]*|\n\s*\n)\s*")
"""The end of a sentence, or of a paragraph, with the space behind it; none where a small letter follows."""
_WORD = re.compile(r"\w+")
SHORT = 3
"""Words of so many letters are mostly articles and prepositions."""
ALIKE = 3
"""So many sentences of a passage may have as many words of a question; where more have, these words say nothing."""
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


def quoted(text: str, question: str, at: int) -> str:
    """The sentence of `text` with most of a question's words; of equals the one nearest to character `at`.

    Words of three letters and fewer do not count.
    """
    asked = words(question)
    best = max(_sentences(text), key=lambda s: (len(words(s[1]) & asked), -_apart(*s, at)), default=(0, text))
    return best[1].strip()


def likewise(text: str, question: str, sentence: str) -> list[str]:
    """The sentences of `text` with as many of a question's words as `sentence`, in their order.

    `sentence` alone where it has none of them, or where these are more than ALIKE.

    >>> likewise("The tide is low. It was noon. The tide was high.", "the tide?", "The tide is low.")
    ['The tide is low.', 'The tide was high.']
    """
    asked = words(question)
    least = len(words(sentence) & asked)
    found = [said.strip() for _, said in _sentences(text) if len(words(said) & asked) >= least]
    return found if least and len(found) <= ALIKE else [sentence]


def by_answer(passages: Sequence[Said], question: str, answer: str) -> list[Said]:
    """The passages with most of the words that an answer adds to its question first; of equals, as they came."""
    told = words(answer) - words(question)
    return sorted(passages, key=lambda passage: -len(told & words(passage.text)))


def words(text: str) -> set[str]:
    """The different words and numbers of a text, in lower case, those of three letters and fewer left out."""
    return {word for word in _WORD.findall(text.lower()) if len(word) > SHORT or word.isdecimal()}


def line_of(text: str, question: str) -> str:
    r"""The first line that has all of a question's words that `text` has: a record of a table; "" where none has.

    >>> line_of("anvil: 7\nbrass: 8", "the number of brass")
    'brass: 8'
    """
    asked = words(text) & words(question)
    lines = text.splitlines() if asked else []
    return next((line.strip() for line in lines if asked <= words(line)), "")


def _sentences(text: str) -> list[tuple[int, str]]:
    """Where each sentence begins, and the sentence with the space around it."""
    edges = [0, *starts(text), len(text)]
    return [(a, text[a:b]) for a, b in pairwise(edges) if text[a:b].strip()]


def _apart(start: int, sentence: str, at: int) -> int:
    """Characters between a sentence and a place."""
    return max(0, start - at, at - start - len(sentence) + 1)
