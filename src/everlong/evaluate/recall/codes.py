"""codes: the codes of archives in dull filler that repeats, as in the task `sessions`."""

from __future__ import annotations

import dataclasses

from everlong.evaluate.haystack import noise
from everlong.evaluate.recall.cell import Question, RecallCell, RecallText, shuffled
from everlong.evaluate.words import PLACES

_OPENING = "These are the files of several archives. Each has a code. Keep all codes in mind.\n"
_FACT = "The code of the {place} archive is {code}. Remember it. {code} is the code of the {place} archive."
_QUESTION = "\n\nWhat is the code of the {place} archive? The code of the {place} archive is"


def codes(cell: RecallCell) -> RecallText:
    """Codes of five digits, always in noise."""
    places = cell.rng.sample(PLACES, cell.questions)
    numbers = cell.rng.sample(range(10_000, 100_000), cell.questions)
    facts = [_FACT.format(place=place, code=code) for place, code in zip(places, numbers, strict=True)]
    questions = [
        Question(_QUESTION.format(place=place), (f" {code}",), (fact,))
        for place, code, fact in zip(places, numbers, facts, strict=True)
    ]
    in_noise = dataclasses.replace(cell, filler=noise())
    return in_noise.hidden(facts, shuffled(cell.rng, questions), _OPENING)
