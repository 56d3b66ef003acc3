"""passkey: five digits hidden in dull filler, asked for at the end.

Landmark Attention's test (Mohtashami and Jaggi, arXiv 2305.16300, section 4.2), here as plain completion: the question
ends where the key begins, because small models answer the chat form wrongly even inside their window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from everlong.evaluate.filler import FILLERS, KEY, KEY_QUESTION, OPENING, Hidden, Size, hay, measured, pieces
from everlong.evaluate.lengths import Depths, Lengths, among, at_least_one, depths, lengths
from everlong.evaluate.task import Sample, Setting, Task


@dataclass(frozen=True)
class Passkey(Task):
    """Five digits hidden in filler; right if the answer begins with them."""

    name = "passkey"
    source = "Landmark Attention, arXiv 2305.16300"
    licence = "generated"
    metric = "the answer begins with the key"
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of text and question"})
    depths: Depths = field(default=(0.1, 0.5, 0.9), metadata={"help": "where the key stands: 0 start, 1 end"})
    samples: int = field(default=1, metadata={"help": "samples for each length and depth"})
    filler: str = field(default="noise", metadata={"help": "noise (five dull sentences) or books (--data)"})

    def __post_init__(self) -> None:
        lengths(self.lengths)
        depths(self.depths)
        at_least_one(samples=self.samples)
        among(FILLERS, filler=self.filler)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One key for each length, depth and number."""
        size = measured(setting.count)
        for length in self.lengths:
            for depth in self.depths:
                for n in range(self.samples):
                    key = str(setting.rng(self.name, length, depth, n).randrange(10_000, 100_000))
                    yield self._sample(setting, size, length, depth, n, key)

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first thing that was said is the key."""
        return float(prediction.strip().startswith(sample.gold[0]))

    def _sample(self, setting: Setting, size: Size, length: int, depth: float, n: int, key: str) -> Sample:
        fact = Hidden(KEY.format(key=key), depth)
        source, left = pieces(self.filler, setting.data, n), length - setting.count(KEY_QUESTION)
        context = hay(source, left, size, [fact], OPENING)
        return Sample(f"{length}-{depth}-{n}", context, KEY_QUESTION, (key,), 8, length=length, depth=depth)
