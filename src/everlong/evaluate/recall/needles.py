"""multikey, pairs, lines: texts that are nothing but records of one form, some of which are asked for.

multikey is RULER's niah_multikey_2 (arXiv 2404.06654, section 3.1) in the words of our task `ruler`; pairs are those of
"Lost in the Middle" (arXiv 2307.03172), as lines of JSON; lines are LongEval's (lmsys.org, 2023-06-29).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from everlong.evaluate.recall.cell import Question, RecallCell, RecallText
from everlong.evaluate.words import identifier, names


class Record(NamedTuple):
    """A key and its value."""

    key: str
    value: str


@dataclass(frozen=True)
class NeedleForm:
    """How records and questions are written; `{key}` and `{value}` are filled in."""

    opening: str
    record: str
    joint: str
    """What stands before each record."""
    question: str
    before: str = ""
    """What stands between the question and the value: a space, or nothing where the question ends in a quote."""


MULTIKEY = NeedleForm(
    "Magic numbers are hidden in this text. Keep them in mind.",
    "The magic number of {key} is {value}.",
    " ",
    "\n\nWhat is the magic number of {key}? The magic number of {key} is",
    " ",
)
PAIRS = NeedleForm(
    "These lines say which value belongs to which key.",
    '{{"{key}": "{value}"}}',
    "\n",
    '\n\nThe line that begins with the key "{key}" is once more:\n{{"{key}": "',
)
LINES = NeedleForm(
    "Below is a record of lines. Each has a name and a number, its REGISTER_CONTENT. Keep them in mind.\n",
    "line {key}: REGISTER_CONTENT is <{value}>",
    "\n",
    "\n\nWhat is the REGISTER_CONTENT in line {key}? The REGISTER_CONTENT in line {key} is <",
)


def multikey(cell: RecallCell) -> RecallText:
    """Magic numbers of seven digits."""
    return _made(cell, MULTIKEY, (Record(key, _digits(cell, 7)) for key in names(cell.rng)))


def pairs(cell: RecallCell) -> RecallText:
    """Random identifiers as keys and as values."""
    drawn = (identifier(cell.rng) for _ in itertools.count())
    return _made(cell, PAIRS, (Record(key, next(drawn)) for key in drawn))


def lines(cell: RecallCell) -> RecallText:
    """Numbers of five digits."""
    return _made(cell, LINES, (Record(key, _digits(cell, 5)) for key in names(cell.rng)))


def _made(cell: RecallCell, form: NeedleForm, source: Iterator[Record]) -> RecallText:
    """The records that fit, and questions for some of them."""
    drawn: list[Record] = []

    def written() -> Iterator[str]:
        for record in source:
            drawn.append(record)
            yield form.joint + form.record.format(**record._asdict())

    pieces = written()
    # The question for the first record stands for the length of all: keys of one kind differ by a few tokens.
    first = next(pieces)
    spare = 8
    room = cell.room([_question(form, drawn[0])]) - spare
    kept = cell.records(itertools.chain([first], pieces), room, form.opening)
    asked = [drawn[n] for n in cell.asked(kept)]
    return RecallText(form.opening + "".join(kept), tuple(_question(form, record) for record in asked))


def _question(form: NeedleForm, record: Record) -> Question:
    fact = form.record.format(**record._asdict())
    return Question(form.question.format(key=record.key), (form.before + record.value,), (fact,))


def _digits(cell: RecallCell, n: int) -> str:
    return str(cell.rng.randrange(10 ** (n - 1), 10**n))
