"""Texts of many named facts to calibrate on, made from a seed: no data is needed.

Four kinds of fact, two of them strewn over prose and two in runs of lines that look all alike. The prose is that of
Python's own language reference, which comes with every interpreter. Heads that find one kind do not always find
another, and repeated filler tells nothing: on it any head that sees something new looks like one that finds.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from everlong.errors import CapabilityError
from everlong.text.tokenize import ids_behind

TOKENS_PER_FACT = 85
"""How thickly the facts stand."""
ASKED = 6
"""Questions about each kind of fact, at most."""
_PROSE_CHARS = 300
_COLOURS = "amber azure bronze crimson emerald indigo ivory lilac ochre russet saffron scarlet sepia silver teal"
_THINGS = """
    abbey aqueduct archive barge belfry brewery bridge canal castle cellar chapel depot dock factory foundry gallery
    garden granary hangar hospital hut laboratory library lighthouse market mill mine museum observatory office
    orchard pier quarry refinery reservoir school shipyard silo stable station studio theatre tower tunnel vault villa
    warehouse wharf workshop
"""
_GIVEN = """
    Agnes Albert Bruno Celia Daphne Edgar Elsa Felipe Gloria Harold Ingrid Ivan Jacob Judith Klara Leon Lydia Marcus
    Miriam Nadia Nigel Olga Otto Pavel Petra Quentin Rosa Rufus Selma Silas Tessa Tobias Ursula Victor Wilma Yvonne
"""
_FAMILY = """
    Abbott Barlow Carver Denham Ellis Fenwick Garland Hobbs Ingram Jarvis Keating Lambert Marlow Norwood Osborne
    Pickett Quigley Radford Sanders Thorpe Underhill Vickers Wexford Yardley
"""
_WORK = """
    architect baker barber botanist butcher carpenter clockmaker dentist engraver farmer gardener glassblower jeweller
    judge locksmith midwife miner nurse optician organist painter pilot plumber potter sculptor surgeon tailor tanner
    teacher translator
"""
_TOWNS = """
    Aberdeen Antwerp Bergen Bilbao Bologna Bremen Cadiz Cork Dresden Dundee Florence Geneva Ghent Granada Hamburg
    Krakow Leeds Leipzig Lyon Malaga Munich Nantes Oporto Palermo Prague Riga Salzburg Seville Tallinn Turin Utrecht
    Verona Vienna Vilnius Warsaw Zurich
"""


@dataclass(frozen=True)
class CalibrationFact:
    """A fact as it stands in the text, and a question that only it answers."""

    kind: str
    text: str
    question: str


@dataclass(frozen=True)
class CalibrationQuestion:
    """A question as ids, and where in the text its fact stands: tokens `start` to `end` - 1."""

    kind: str
    question: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class FactText:
    """A text as ids, and what is asked about it."""

    ids: tuple[int, ...]
    asked: tuple[CalibrationQuestion, ...]


def fact_text(tokenizer: Any, seed: int, tokens: int, lead: int = 0, prose: Iterator[str] | None = None) -> FactText:
    """A text of about `tokens` tokens with facts of every kind behind the first `lead`, and questions about them.

    Equal seeds give equal texts. `prose` gives the pieces between the facts; by default Python's documentation.
    A text too short for a fact of each kind is longer.
    """
    rng = random.Random(seed)
    each = max(1, tokens // TOKENS_PER_FACT // len(KINDS))
    groups = [group for kind in KINDS.values() for group in kind(rng, each)]
    rng.shuffle(groups)
    writer = _Writer(tokenizer, prose or documentation(rng))
    writer.fill(lead)
    left = sum(writer.cost(fact) for group in groups for fact in group)
    for place, group in enumerate(groups):
        writer.fill(len(writer.ids) + max(0, tokens - len(writer.ids) - left) // (len(groups) - place + 1))
        for fact in group:
            left -= writer.cost(fact)
            writer.put(fact)
    writer.fill(tokens)
    return FactText(tuple(writer.ids), tuple(_chosen(rng, writer.asked)))


def documentation(rng: random.Random) -> Iterator[str]:
    """Paragraphs of Python's language reference in an order of its own for each seed, over and over."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise CapabilityError(
            "calibration: this Python comes without its documentation (pydoc_data); use one that has it"
        ) from None
    found = [" ".join(part.split()) for topic in topics.values() for part in topic.split("\n\n")]
    prose = [part for part in found if len(part) > 120 and re.match(r"[A-Z][^*|>=]*\.$", part)]
    while True:
        rng.shuffle(prose)
        yield from (
            part[:_PROSE_CHARS].rpartition(". ")[0] + "." if len(part) > _PROSE_CHARS else part for part in prose
        )


class _Writer:
    """A text that grows piece by piece, with the places of the facts in it."""

    def __init__(self, tokenizer: Any, prose: Iterator[str]) -> None:
        self.ids: list[int] = []
        self.asked: list[CalibrationQuestion] = []
        self._tokenizer = tokenizer
        self._prose = prose

    def ids_of(self, text: str) -> list[int]:
        """The ids of a text behind a line's end."""
        return ids_behind(self._tokenizer, "\n", text + "\n")

    def cost(self, fact: CalibrationFact) -> int:
        """The tokens that a fact takes."""
        return len(self.ids_of(fact.text))

    def fill(self, tokens: int) -> None:
        """Prose until the text has `tokens` tokens or a few more, as a piece is not cut."""
        while len(self.ids) < tokens:
            self.ids += self.ids_of(next(self._prose))

    def put(self, fact: CalibrationFact) -> None:
        """The fact, and its question noted down."""
        start = len(self.ids)
        self.ids += self.ids_of(fact.text)
        self.asked.append(CalibrationQuestion(fact.kind, tuple(self.ids_of(fact.question)), start, len(self.ids)))


def _chosen(rng: random.Random, asked: list[CalibrationQuestion]) -> Iterator[CalibrationQuestion]:
    """ASKED questions of each kind at most, in no order."""
    order = rng.sample(asked, len(asked))
    for kind in KINDS:
        yield from [one for one in order if one.kind == kind][:ASKED]


def _pairs(rng: random.Random, ones: str, others: str, count: int) -> list[tuple[str, str]]:
    """So many pairs of a word of each text, no pair twice."""
    first = ones.split()
    second = others.split()
    order = rng.sample(range(len(first) * len(second)), count)
    return [(first[n % len(first)], second[n // len(first)]) for n in order]


def _codes(rng: random.Random, count: int) -> Iterator[list[CalibrationFact]]:
    """Codes of places, each alone."""
    for colour, thing in _pairs(rng, _COLOURS, _THINGS, count):
        place = f"{colour} {thing}"
        text = f"The entry code of the {place} is {rng.randrange(10**5, 10**6)}."
        yield [CalibrationFact("codes", text, f"What is the entry code of the {place}?")]


def _people(rng: random.Random, count: int) -> Iterator[list[CalibrationFact]]:
    """Where people live and what they do, each alone; asked by the name."""
    for given, family in _pairs(rng, _GIVEN, _FAMILY, count):
        name = f"{given} {family}"
        work = rng.choice(_WORK.split())
        town = rng.choice(_TOWNS.split())
        text = f"{name}, {work}, has lived in {town} for {rng.randrange(3, 40)} years."
        yield [CalibrationFact("people", text, f"In which town does {name} live?")]


def _lines(rng: random.Random, count: int) -> Iterator[list[CalibrationFact]]:
    """Numbers of names that were made up, in two runs of lines that look alike."""
    facts = []
    for thing, colour in _pairs(rng, _THINGS, _COLOURS, count):
        name = f"{thing}-{colour}"
        text = f"One of the registered numbers for {name} is: {rng.randrange(10**6, 10**7)}."
        facts.append(CalibrationFact("lines", text, f"What is the registered number for {name} in the text?"))
    yield from _runs(facts)


def _keys(rng: random.Random, count: int) -> Iterator[list[CalibrationFact]]:
    """Values of keys, both without a meaning, in two runs as in a JSON file."""
    facts = []
    for _ in range(count):
        key, value = (str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(2))
        facts.append(CalibrationFact("keys", f'"{key}": "{value}",', f'Which value has the key "{key}"?'))
    yield from _runs(facts)


def _runs(facts: list[CalibrationFact]) -> Iterator[list[CalibrationFact]]:
    middle = (len(facts) + 1) // 2
    yield from (run for run in (facts[:middle], facts[middle:]) if run)


KINDS: dict[str, Callable[[random.Random, int], Iterator[list[CalibrationFact]]]] = {
    "codes": _codes,
    "people": _people,
    "lines": _lines,
    "keys": _keys,
}
"""Makes so many facts of a kind, in groups that stay together."""
