"""passkey: five digits hidden in dull filler, asked for at the end.

Landmark Attention's test (Mohtashami and Jaggi, arXiv 2305.16300, section 4.2), here as plain completion: the question
ends where the key begins, because small models answer the chat form wrongly even inside their window. With several
needles each key has the name of its owner, and one of them, known only at the end, is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from everlong.errors import ConfigError
from everlong.evaluate.haystack import FILLERS, OPENING, Hidden, hay, measured, pieces
from everlong.evaluate.lengths import Depths, Lengths, among, at_least_one, depths, lengths
from everlong.evaluate.task import Sample, Setting, Task
from everlong.text.haystack import NAMES, key_needle, key_question


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
    needles: int = field(
        default=1, metadata={"help": "keys in a sample; of several, each with a name, one is asked for"}
    )

    def __post_init__(self) -> None:
        lengths(self.lengths)
        depths(self.depths)
        at_least_one(samples=self.samples)
        at_least_one(needles=self.needles)
        if self.needles > len(NAMES):
            raise ConfigError(f"needles={self.needles}: there are names for {len(NAMES)}; give fewer")
        among(FILLERS, filler=self.filler)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One key, or one of several, for each length, depth and number."""
        size = measured(setting.count)
        for length in self.lengths:
            for depth in self.depths:
                for n in range(self.samples):
                    facts, asked, key = self._hidden(setting.rng(self.name, length, depth, n), depth)
                    source = pieces(self.filler, setting.data, n)
                    left = length - setting.count(asked)
                    context = hay(source, left, size, facts, OPENING)
                    yield Sample(f"{length}-{depth}-{n}", context, asked, (key,), 8, length=length, depth=depth)

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first thing that was said is the key."""
        return float(prediction.strip().startswith(sample.gold[0]))

    def _hidden(self, rng: Random, depth: float) -> tuple[list[Hidden], str, str]:
        """The needles, the one that is asked for at `depth` and the others anywhere; the question; the key."""
        key = str(rng.randrange(10_000, 100_000))
        asked, *others = rng.sample(NAMES, self.needles) if self.needles > 1 else [""]
        facts = [Hidden(key_needle(asked, key), depth)]
        facts += [Hidden(key_needle(name, str(rng.randrange(10_000, 100_000))), rng.random()) for name in others]
        return facts, key_question(asked), key
