"""RULER's aggregation (section 3.3): which words come most often in a list, or in a text in code."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence

from everlong.errors import ConfigError
from everlong.evaluate.haystack import longest
from everlong.evaluate.ruler.cell import RulerCell, RulerText
from everlong.evaluate.words import made_up

COMMON = 10
FREQUENT = 3
OFTEN = 30
RARELY = 3
SHARE = 0.6
"""How often common and other words come; where common ones would fill a larger share, less often, the others once."""
ALPHA = 2.0
_ASKED = "\n\nWhich {n} words come most often in this {what}? The {n} words are:"


def common_words(cell: RulerCell) -> RulerText:
    """cwe: a numbered list where ten words come far more often than all others, after a worked example."""
    rng = cell.rng
    words = made_up(cell.rng)
    shown = list(itertools.islice(words, COMMON))
    gold = list(itertools.islice(words, COMMON))
    question = _ASKED.format(n=COMMON, what="list")
    example = f"{_listed(shown * 2 + list(itertools.islice(words, 5)), rng)}{question} {_numbered(shown)}\n\n"
    left = cell.tokens - cell.count(example + question)
    often = min(OFTEN, int(SHARE * left) // cell.count(_numbered(gold)))
    if often < RARELY:
        raise ConfigError(f"lengths={cell.tokens}: too few tokens for common words; give longer ones")
    rarely = RARELY if often == OFTEN else 1
    others = list[str]()
    seed = rng.getrandbits(64)

    def text(n: int) -> str:
        others.extend(itertools.islice(words, max(0, n - len(others))))
        return f"List: {example}List: {_listed(gold * often + others[:n] * rarely, random.Random(seed))}"

    context = longest(text, cell.tokens - cell.count(question), cell.count)
    return RulerText(context, question, tuple(gold), 120)


def frequent_words(cell: RulerCell) -> RulerText:
    """fwe: words as often as Zipf's law says, the most frequent of all being dots; the next three are asked for.

    Rank k comes n / (k ** ALPHA * zeta(ALPHA)) times.
    """
    words = made_up(cell.rng)
    seed = cell.rng.getrandbits(64)
    ranked = ["...", *itertools.islice(words, 2 * math.isqrt(cell.tokens) + 2)]
    question = _ASKED.format(n=FREQUENT, what="text in code, the dots aside")

    def text(n: int) -> str:
        found = [word for word, times in zip(ranked, zipf(n), strict=False) for _ in range(times)]
        random.Random(seed).shuffle(found)
        return f"Text in code: {' '.join(found)}"

    context = longest(text, cell.tokens - cell.count(question), cell.count)
    often = [context.count(word) for word in ranked[1 : FREQUENT + 2]]
    if sorted(set(often), reverse=True) != often:
        raise ConfigError(f"lengths={cell.tokens}: too few tokens for words of different frequency; give longer ones")
    return RulerText(context, question, tuple(ranked[1 : FREQUENT + 1]), 30)


def zipf(n: int) -> Iterator[int]:
    """How often each rank comes among about n words, from the first on, as long as it comes at all.

    >>> list(zipf(20))
    [12, 3, 1, 1]
    """
    zeta = math.pi**2 / 6
    every = (round(n / (k**ALPHA * zeta)) for k in itertools.count(1))
    return itertools.takewhile(bool, every)


def _listed(words: Sequence[str], rng: random.Random) -> str:
    """The words in random order, numbered."""
    return _numbered(rng.sample(words, len(words)))


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{n}. {word}" for n, word in enumerate(words, start=1))
