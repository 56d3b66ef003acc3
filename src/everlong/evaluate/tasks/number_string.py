"""number_string: ten digits hidden in dull filler, asked for at the end.

The form is InfiniteBench's Retrieve.Number (arXiv 2402.13718, github.com/OpenBMB/InfiniteBench): the digits come in
runs of the same digit, which makes them harder to repeat than those of a pass key. Generated here at any length, as
plain completion in words of our own; the official samples and prompts run in the task `infinitebench`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from everlong.evaluate.haystack import Hidden, hay, measured, noise
from everlong.evaluate.lengths import Depths, Lengths, at_least_one, depths, lengths
from everlong.evaluate.metrics.strings import first_number
from everlong.evaluate.task import Sample, Setting, Task

OPENING = "A string of digits is hidden somewhere in this long and dull text. Find it and keep it in mind."
QUESTION = " What is the string of digits? The string of digits is"
DIGITS = 10


@dataclass(frozen=True)
class NumberString(Task):
    """Ten digits in runs hidden in filler; right if they are the first number of the answer."""

    name = "number_string"
    source = "the form of InfiniteBench, arXiv 2402.13718"
    licence = "generated"
    metric = "the first number of the answer is the hidden one"
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of text and question"})
    depths: Depths = field(default=(0.1, 0.5, 0.9), metadata={"help": "where the digits stand: 0 start, 1 end"})
    samples: int = field(default=1, metadata={"help": "samples for each length and depth"})

    def __post_init__(self) -> None:
        lengths(self.lengths)
        depths(self.depths)
        at_least_one(samples=self.samples)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One string for each length, depth and number."""
        size = measured(setting.count)
        asked = setting.count(QUESTION)
        for length, depth, n in itertools.product(self.lengths, self.depths, range(self.samples)):
            digits = in_runs(setting.rng(self.name, length, depth, n))
            fact = Hidden(f" The string of digits is {digits}. Remember it. {digits} is the string of digits.", depth)
            context = hay(noise(), length - asked, size, [fact], OPENING)
            yield Sample(f"{length}-{depth}-{n}", context, QUESTION, (digits,), 16, length=length, depth=depth)

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first number is the hidden one, leading zeros included."""
        return float(first_number(prediction) == sample.gold[0])


def in_runs(rng: random.Random) -> str:
    """Ten digits, in runs of one to four that are the same."""
    found = ""
    while len(found) < DIGITS:
        found += rng.choice("0123456789") * rng.randint(1, 4)
    return found[:DIGITS]
