"""RULER's multi-hop tracing (section 3.2): a variable gets a value, four more get it from one another."""

from __future__ import annotations

import random
import string

from everlong.evaluate.haystack import NOISE, Hidden, hay, noise
from everlong.evaluate.ruler.cell import RulerCell, RulerText

HOPS = 4
LETTERS = 5
OPENING = "Follow which variables get which value.\n\n"


def made(cell: RulerCell) -> RulerText:
    """A worked example, then a chain of assignments in their order at random places of the noise."""
    rng = cell.rng
    shown = _chain(rng)
    chain = _chain(rng)
    example = "Text:" + NOISE.join(_assignments(*shown)) + _question(*shown) + f" {', '.join(shown[1])}\n\n"
    question = _question(*chain)
    depths = sorted(rng.random() for _ in chain[1])
    hidden = [Hidden(text, depth) for text, depth in zip(_assignments(*chain), depths, strict=True)]
    context = hay(noise(), cell.tokens - cell.count(question), cell.size, hidden, f"{OPENING}{example}Text:")
    return RulerText(context, question, tuple(chain[1]), 48)


def _chain(rng: random.Random) -> tuple[str, list[str]]:
    """A value, and the names of the variables that get it."""
    found: dict[str, None] = {}
    while len(found) <= HOPS:
        found["".join(rng.choices(string.ascii_uppercase, k=LETTERS))] = None
    return str(rng.randrange(10_000, 100_000)), list(found)


def _assignments(value: str, variables: list[str]) -> list[str]:
    sources = [value, *(f"VAR {name}" for name in variables)]
    return [f" VAR {name} = {source}." for name, source in zip(variables, sources, strict=False)]


def _question(value: str, variables: list[str]) -> str:
    return f"\n\nWhich variables have the value {value}? These {len(variables)} variables have it:"
