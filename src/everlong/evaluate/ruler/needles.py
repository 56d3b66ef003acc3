"""RULER's retrieval (section 3.1): magic values with keys, hidden in noise, in essays, or among others like them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from everlong.evaluate.haystack import Hidden, hay, noise
from everlong.evaluate.ruler.cell import RulerCell, RulerText
from everlong.evaluate.words import identifier, names

Kind = Literal["word", "number", "code"]
_ANSWER_TOKENS = {"number": 16, "code": 48}
_DIGITS = 7


@dataclass(frozen=True)
class RulerForm:
    """A sub-task: the haystack, what keys and values are, and how many of them."""

    haystack: Literal["noise", "essay", "needles"] = "essay"
    key: Kind = "word"
    value: Kind = "number"
    keys: int = 1
    """Keys in all; those that are not asked for are there to confuse."""
    values: int = 1
    """Values of each key that is asked for."""
    asked: int = 1
    """Keys that are asked for."""


FORMS = {
    "niah_single_1": RulerForm("noise"),
    "niah_single_2": RulerForm(),
    "niah_single_3": RulerForm(value="code"),
    "niah_multikey_1": RulerForm(keys=4),
    "niah_multikey_2": RulerForm("needles"),
    "niah_multikey_3": RulerForm("needles", key="code", value="code"),
    "niah_multivalue": RulerForm(values=4),
    "niah_multiquery": RulerForm(keys=4, asked=4),
}


def made(form: RulerForm, cell: RulerCell) -> RulerText:
    """A text with the needles at random places."""
    rng = cell.rng
    kind = form.value
    keys = (identifier(rng) for _ in itertools.count()) if form.key == "code" else names(rng)
    asked = {next(keys): [_value(kind, rng) for _ in range(form.values)] for _ in range(form.asked)}
    others = [_needle(kind, next(keys), _value(kind, rng)) for _ in range(form.keys - form.asked)]
    needles = others + [_needle(kind, key, value) for key, values in asked.items() for value in values]
    gold = tuple(value for values in asked.values() for value in values)
    opening = f"Magic {kind}s are hidden in this text. Keep them in mind."
    question = _question(kind, list(asked), gold)
    hidden = [Hidden(needle, rng.random()) for needle in needles]
    source = {"noise": noise(), "essay": cell.essay, "needles": _more(kind, keys, rng)}[form.haystack]
    context = hay(source, cell.tokens - cell.count(question), cell.size, hidden, opening)
    return RulerText(context, question, gold, _ANSWER_TOKENS[kind] * len(gold) + 8)


def _value(kind: Kind, rng: random.Random) -> str:
    return identifier(rng) if kind == "code" else str(rng.randrange(10 ** (_DIGITS - 1), 10**_DIGITS))


def _needle(kind: Kind, key: str, value: str) -> str:
    return f" The magic {kind} of {key} is {value}."


def _more(kind: Kind, keys: Iterator[str], rng: random.Random) -> Iterator[str]:
    """Needles that nobody asks for, without end."""
    return (_needle(kind, key, _value(kind, rng)) for key in keys)


def _question(kind: Kind, keys: Sequence[str], gold: Sequence[str]) -> str:
    """What is asked, up to where the answer begins."""
    which = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
    verb, what = ("is", kind) if len(gold) == 1 else ("are", f"{kind}s")
    return f"\n\nWhat {verb} the magic {what} of {which}? The magic {what} of {which} {verb}"
