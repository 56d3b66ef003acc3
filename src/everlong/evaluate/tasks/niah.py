"""niah: needles in a haystack, a fact in natural text asked for at the end, by length and depth of the text.

Kamradt's pressure test (github.com/gkamradt/LLMTest_NeedleInAHaystack): one sentence in essays, length by depth as a
heat map. Here the haystack is books (or dull filler), the needle an object that somebody took along, drawn anew for
each sample, and the answer is judged by whether the object stands in it, not by another model. With several needles
the first stands at the depth and the others evenly behind it, as in LangChain's form of the test; the score is the
share of them that was named.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from everlong.errors import ConfigError
from everlong.evaluate.haystack import FILLERS, Hidden, hay, measured, pieces
from everlong.evaluate.lengths import Depths, Lengths, among, at_least_one, depths, lengths
from everlong.evaluate.metrics.strings import share_found
from everlong.evaluate.task import Sample, Setting, Task

QUESTION = "\n\nWhat did the lighthouse checkpointer take along? The lighthouse checkpointer took along a"
_MATERIALS = "bamboo brass bronze clay copper glass golden leather marble paper rubber silver steel stone velvet wooden"
_OBJECTS = "bell bowl box comb cup drum flute horse key knife lamp mask pipe ring rope sword"
THINGS = tuple(f"{material} {thing}" for material in _MATERIALS.split() for thing in _OBJECTS.split())
SEVERAL = (
    "\n\nWhat did the lighthouse checkpointer take along? The lighthouse checkpointer took along these {n} things: a"
)
TOKENS_OF_A_NEEDLE = 10


@dataclass(frozen=True)
class Niah(Task):
    """Objects hidden in natural text; the score is the share of them that the answer names."""

    name = "niah"
    source = "the form of github.com/gkamradt/LLMTest_NeedleInAHaystack"
    licence = "generated; the haystack is what --data gives"
    metric = "share of the needles in the answer"
    needs = "data"
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of text and question"})
    depths: Depths = field(default=(0.0, 0.25, 0.5, 0.75, 1.0), metadata={"help": "where the (first) needle stands"})
    samples: int = field(default=1, metadata={"help": "samples for each length and depth"})
    needles: int = field(default=1, metadata={"help": "facts to find, the others evenly behind the first"})
    filler: Literal["books", "noise"] = field(default="books", metadata={"help": "books (--data) or noise"})

    def __post_init__(self) -> None:
        lengths(self.lengths)
        depths(self.depths)
        at_least_one(samples=self.samples)
        at_least_one(needles=self.needles)
        among(FILLERS, filler=self.filler)
        if self.needles > len(THINGS):
            raise ConfigError(f"needles={self.needles}: there are {len(THINGS)} at most")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One text for each length, depth and number; number n begins with book n."""
        size = measured(setting.count)
        question = QUESTION if self.needles == 1 else SEVERAL.format(n=self.needles)
        asked = setting.count(question)
        for length, depth, n in itertools.product(self.lengths, self.depths, range(self.samples)):
            gold = tuple(setting.rng(self.name, length, depth, n).sample(THINGS, self.needles))
            hidden = [
                Hidden(f" The lighthouse checkpointer took along a {thing}.", depth + (1 - depth) * i / len(gold))
                for i, thing in enumerate(gold)
            ]
            context = hay(pieces(self.filler, setting.data, n), length - asked, size, hidden)
            most = TOKENS_OF_A_NEEDLE * len(gold)
            yield Sample(f"{length}-{depth}-{n}", context, question, gold, most, ("\n",), length=length, depth=depth)

    def score(self, prediction: str, sample: Sample) -> float:
        """The share of the needles that stand in the prediction."""
        return share_found(prediction, sample.gold)
