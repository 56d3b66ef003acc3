"""ruler: eleven synthetic sub-tasks that need more than finding one needle.

RULER (Hsieh et al., arXiv 2404.06654; github.com/NVIDIA/RULER), sections 3.1 to 3.3 with the authors' settings: needles
alone (three kinds), among other keys (three), of several values, for several queries; variable tracking over four hops;
ten common words; three frequent words. The two sub-tasks of question answering need other people's data and are left
out. All words, keys and sentences are ours; keys are two words with a hyphen, as there, and the words to count are made
up. The haystack "essay" is books where a folder of data is given, else noise. One worked example stands before variable
tracking and common words, as there; in short lists common words come less than thirty times. Answers end after as many
tokens as the right one takes, not after 128. The score is their string match of all, the share of right answers that
stand in the prediction; `part` is 1 if any of them does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from everlong.evaluate.haystack import FILLERS, measured, pieces
from everlong.evaluate.lengths import Lengths, Names, among, at_least_one, lengths
from everlong.evaluate.metrics.strings import any_found, share_found
from everlong.evaluate.ruler import counting, needles, tracing
from everlong.evaluate.ruler.cell import RulerCell, RulerText
from everlong.evaluate.task import Outcome, Sample, Setting, Task

OTHERS = {"vt": tracing.made, "cwe": counting.common_words, "fwe": counting.frequent_words}
SUBSETS = (*needles.FORMS, *OTHERS)


@dataclass(frozen=True)
class Ruler(Task):
    """Retrieval, tracing and counting in generated texts; the score is the share of right answers that were given."""

    name = "ruler"
    source = "the form of RULER, arXiv 2404.06654"
    licence = "generated; essays are the books that --data gives"
    metric = "share of the right answers in the prediction (string match of all)"
    subsets: Names = field(default=SUBSETS, metadata={"help": f"of {', '.join(SUBSETS)}"})
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of text and question"})
    samples: int = field(default=1, metadata={"help": "samples for each subset and length"})
    filler: Literal["auto", "books", "noise"] = field(
        default="auto", metadata={"help": "the essay: books (--data), noise, or books where --data is given (auto)"}
    )

    def __post_init__(self) -> None:
        lengths(self.lengths)
        at_least_one(samples=self.samples)
        among(SUBSETS, subsets=self.subsets)
        among(("auto", *FILLERS), filler=self.filler)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One sample for each subset, length and number."""
        size = measured(setting.count)
        filler = self.filler
        if filler == "auto":
            filler = "noise" if setting.data.path is None else "books"
        for subset, length, n in itertools.product(self.subsets, self.lengths, range(self.samples)):
            essay = pieces(filler, setting.data, n)
            made = _made(
                subset, RulerCell(setting.rng(self.name, subset, length, n), length, setting.count, size, essay)
            )
            facts = {"essay": filler}
            yield Sample(
                f"{subset}-{length}-{n}",
                made.context,
                made.question,
                made.gold,
                made.max_new_tokens,
                group=subset,
                length=length,
                facts=facts,
            )

    def judged(self, answer: str, sample: Sample) -> Outcome:
        """The answer with both scores."""
        scores = {"part": any_found(answer, sample.gold)}
        return Outcome(answer, self.score(answer, sample), list(sample.gold), scores, dict(sample.facts))

    def score(self, prediction: str, sample: Sample) -> float:
        """The share of the right answers that stand in the prediction."""
        return share_found(prediction, sample.gold)


def _made(subset: str, cell: RulerCell) -> RulerText:
    if subset in needles.FORMS:
        return needles.made(needles.FORMS[subset], cell)
    return OTHERS[subset](cell)
