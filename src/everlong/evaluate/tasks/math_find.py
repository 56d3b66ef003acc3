"""math_find: a long list of numbers, and the largest, the second largest, the median and so on asked for at the end.

The form is InfiniteBench's Math.Find (arXiv 2402.13718): whole numbers below a hundred, in random order. Generated here
at any length. Which number is the largest would nearly always be the same in a long list, so that the list has its own
bounds in each sample. Equal numbers count once for the largest and smallest ones; the median is that of all numbers,
which are odd in number. A model must look at all of them: no depth makes sense.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from everlong.errors import ConfigError
from everlong.evaluate.haystack import Size, fitting, measured
from everlong.evaluate.lengths import Lengths, Names, among, at_least_one, lengths
from everlong.evaluate.metrics.strings import first_number
from everlong.evaluate.task import Sample, Setting, Task

KINDS = (
    "largest",
    "second_largest",
    "third_largest",
    "smallest",
    "second_smallest",
    "third_smallest",
    "median",
)
OPENING = "Here is a list of numbers: ["
QUESTION = "\n\nWhich is the {kind} number in the list? The {kind} number in the list is"
MARGIN = 20
SPAN = 60
FEWEST = 5


@dataclass(frozen=True)
class MathFind(Task):
    """The largest, smallest or middle number of a list; right if it is the first number of the answer."""

    name = "math_find"
    source = "the form of InfiniteBench, arXiv 2402.13718"
    licence = "generated"
    metric = "the first number of the answer is the right one"
    subsets: Names = field(default=KINDS, metadata={"help": f"of {', '.join(KINDS)}"})
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of list and question"})
    samples: int = field(default=1, metadata={"help": "samples for each subset and length"})

    def __post_init__(self) -> None:
        lengths(self.lengths)
        at_least_one(samples=self.samples)
        among(KINDS, subsets=self.subsets)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One list for each subset, length and number."""
        size = measured(setting.count)
        for kind, length, n in itertools.product(self.subsets, self.lengths, range(self.samples)):
            question = QUESTION.format(kind=kind.replace("_", " "))
            numbers = self._numbers(setting, kind, length, n, length - setting.count(question), size)
            context = OPENING + ", ".join(map(str, numbers)) + "]"
            gold = (str(found(kind, numbers)),)
            yield Sample(f"{kind}-{length}-{n}", context, question, gold, 6, ("\n",), kind, length)

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first number is the right one."""
        return float(first_number(prediction) == sample.gold[0])

    def _numbers(self, setting: Setting, kind: str, length: int, n: int, tokens: int, size: Size) -> list[int]:
        """An odd number of numbers that fit; ConfigError if they are too few for every question."""
        rng = setting.rng(self.name, kind, length, n)
        low = rng.randrange(MARGIN)
        high = low + SPAN + rng.randrange(MARGIN)
        endless = (f" {rng.randint(low, high)}," for _ in itertools.count())
        numbers = [int(piece.strip(" ,")) for piece, _ in fitting(endless, tokens - size(OPENING) - size("]"), size)]
        numbers = numbers[: len(numbers) - (len(numbers) % 2 == 0)]
        if len(set(numbers)) < FEWEST:
            raise ConfigError(f"lengths={length}: too few tokens for a list of numbers; give longer ones")
        return numbers


def found(kind: str, numbers: Sequence[int]) -> int:
    """The number of this kind.

    >>> [found(kind, [3, 9, 9, 4, 1]) for kind in ("second_largest", "third_smallest", "median")]
    [4, 4, 4]
    """
    if kind == "median":
        return int(statistics.median(numbers))
    *place, end = kind.split("_")
    return sorted(set(numbers), reverse=end == "largest")[("second", "third").index(place[0]) + 1 if place else 0]
