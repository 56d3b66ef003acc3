"""Texts of a wanted number of tokens with facts hidden at wanted depths.

Two kinds of filler: the five dull sentences of the pass-key test (arXiv 2305.16300), and the sentences of real books.
Texts are put together from pieces whose tokens are counted once each: a text of a million tokens takes seconds.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from everlong.errors import ConfigError
from everlong.evaluate.data import Data, text
from everlong.text.haystack import KEY, KEY_QUESTION, NOISE, OPENING, book  # noqa: F401  (tasks take the words from here)

FILLERS = ("noise", "books")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'“A-Z])")
_CACHED_PIECES = 1 << 16
_CLOSE = 0.98

Size = Callable[[str], int]
"""The number of tokens of a text."""


@dataclass(frozen=True)
class Hidden:
    """A fact, and where in the text it stands: 0 is the start, 1 the end."""

    text: str
    depth: float


def noise() -> Iterator[str]:
    """The five sentences for ever, as one piece each time."""
    return itertools.repeat(NOISE)


def books(data: Data, start: int = 0, folder: str = "books") -> Iterator[str]:
    """The sentences of the books in a folder of the data, one after the other, for ever; from number `start` on."""
    files = data.files(folder, "*.txt")
    for n in itertools.count(start):
        for sentence in _SENTENCE.split(book(text(files[n % len(files)]))):
            yield " " + " ".join(sentence.split())


def pieces(filler: str, data: Data, start: int = 0) -> Iterator[str]:
    """The filler of this name, one of FILLERS; of books from book number `start` on."""
    return noise() if filler == "noise" else books(data, start)


def measured(count: Size) -> Size:
    """Counts a piece as it is where it follows a line: tokenizers that begin a text with a token of their own do not.

    What was counted is remembered; one such function for all samples of a task counts the books once.
    """
    line = count("\n")
    return functools.lru_cache(_CACHED_PIECES)(lambda piece: count("\n" + piece) - line)


def fitting(source: Iterable[str], tokens: int, size: Size) -> Iterator[tuple[str, int]]:
    """The pieces that fit one after another into `tokens`, each with the tokens up to its end."""
    total = 0
    for piece in source:
        total += size(piece)
        if total > tokens:
            return
        yield piece, total


def hay(source: Iterable[str], tokens: int, size: Size, hidden: Sequence[Hidden] = (), opening: str = "") -> str:
    """A text of at most `tokens` by `size`: the opening, then pieces, with each hidden fact between two of them.

    The facts keep their order where their depths are equal. ConfigError if there is no room for them.
    """
    size = functools.lru_cache(maxsize=4096)(size)
    left = tokens - sum(map(size, [opening, *(h.text for h in hidden)]))
    if left < 0:
        raise ConfigError(
            f"lengths={tokens} without the question: too few tokens for the hidden facts; give {-left} more"
        )
    taken = []
    starts = [0]
    for piece, end in fitting(source, left, size):
        taken.append(piece)
        starts.append(end)
    out = [opening]
    at = 0
    for fact in sorted(hidden, key=lambda h: h.depth):
        place = max(at, _nearest(starts, fact.depth * starts[-1]))
        out += [*taken[at:place], fact.text]
        at = place
    return "".join([*out, *taken[at:]])


def longest(make: Callable[[int], str], tokens: int, count: Size) -> str:
    """`make(n)` for an n from 1 on that fills `tokens` by `count`, up to 2 %, or as closely as the steps of n allow.

    For texts whose parts all change with n, so that only the whole can be counted: a few counts suffice where its
    tokens are nearly a linear function of n. ConfigError if `make(1)` is too long.
    """
    best = make(1)
    at = 1
    low = 1
    high = 2 * tokens
    before = count(best)
    n = min(max(16, tokens // 64), high - 1)
    if before > tokens:
        raise ConfigError(f"lengths={tokens} without the question: too few tokens; give {before - tokens} more")
    while low + 1 < high:
        whole = make(n)
        got = count(whole)
        low, high, best = (n, high, whole) if got <= tokens else (low, n, best)
        if _CLOSE * tokens <= got <= tokens:
            break
        slope = max(1e-3, (got - before) / (n - at)) if n != at else 1.0
        at = n
        before = got
        n = min(max(n + int(((1 + _CLOSE) / 2 * tokens - got) / slope), low + 1), high - 1)
    return best


def _nearest(starts: Sequence[int], wanted: float) -> int:
    """The first place with the smallest distance from what is wanted, in numbers that do not fall."""
    above = bisect.bisect_left(starts, wanted)
    below = bisect.bisect_left(starts, starts[above - 1]) if above else 0
    return below if above == len(starts) or wanted - starts[below] <= starts[above] - wanted else above
