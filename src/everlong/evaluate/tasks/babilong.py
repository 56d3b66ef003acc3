"""babilong: the facts of bAbI's stories hidden, in their order, in the text of books, and a question about them.

BABILong (Kuratov et al., arXiv 2406.10149; github.com/booydar/babilong) over the tasks qa1 to qa10 of bAbI (Weston et
al., arXiv 1502.05698). Facts come after random sentences, and the book is what stands between them. As in the paper the
first sentence of the answer must name the right words and no other of the task's possible answers, those of the
question left aside; here whole words count, so that "none" does not name "one". The wording around the text is ours,
and the worked examples before it are short stories of the same file, which are then not asked about. A story whose
facts would fill more than half of what the examples leave is passed over.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import text
from everlong.evaluate.haystack import FILLERS, Hidden, Size, hay, measured, pieces
from everlong.evaluate.lengths import Lengths, Names, among, at_least_one, lengths
from everlong.evaluate.metrics.strings import words_named
from everlong.evaluate.task import Outcome, Sample, Setting, Task

SUBSETS = tuple(f"qa{n}" for n in range(1, 11))
OPENING = "Facts are hidden in a long text. A question about them comes at its end; the newest fact counts."
QUESTION = "\n\nQuestion: {question}\nAnswer:"
_LINE = re.compile(r"(\d+) ([^\t]+)(?:\t([^\t]+)\t([\d ]+))?")


class Story(NamedTuple):
    """Facts in their order, and a question about them."""

    facts: tuple[str, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class BabiLong(Task):
    """Questions about facts hidden in books; right if the first sentence names the answer and no other."""

    name = "babilong"
    source = "BABILong, arXiv 2406.10149; bAbI, arXiv 1502.05698"
    licence = "bAbI: CC BY 3.0; the books are what --data gives"
    metric = "the first sentence of the answer names the right words and no other possible answer"
    needs = "data"
    subsets: Names = field(default=SUBSETS[:5], metadata={"help": "tasks of bAbI, qa1 to qa10"})
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of text and question"})
    samples: int = field(default=1, metadata={"help": "questions for each subset and length"})
    examples: int = field(default=1, metadata={"help": "worked examples before the text"})
    filler: Literal["books", "noise"] = field(default="books", metadata={"help": "books (--data) or noise"})

    def __post_init__(self) -> None:
        lengths(self.lengths)
        at_least_one(samples=self.samples)
        among(SUBSETS, subsets=self.subsets)
        among(FILLERS, filler=self.filler)
        if self.examples < 0:
            raise ConfigError(f"examples={self.examples}: must be 0 or more")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """So many questions for each subset and length: at every length the same ones, where they fit."""
        size = measured(setting.count)
        for subset in self.subsets:
            file = setting.data.files("babi", f"{subset}_*_test.txt")[0]
            every = sorted(stories(file), key=lambda story: len(story.facts))
            opening = _opening(every[: self.examples])
            asked = every[self.examples :]
            words = sorted({word.lower() for story in every for word in story.answer.split(",")})
            setting.rng(self.name, subset).shuffle(asked)
            for length in self.lengths:
                room = (length - size(opening)) / 2
                fit = (story for story in asked if sum(map(size, story.facts)) <= room)
                chosen = list(itertools.islice(fit, self.samples))
                if len(chosen) < self.samples:
                    raise ConfigError(f"lengths={length}: {len(chosen)} stories of {subset} fit; give more tokens")
                for n, story in enumerate(chosen):
                    yield self._sample(setting, size, opening, story, (subset, length, n), words)

    def judged(self, answer: str, sample: Sample) -> Outcome:
        """The answer with its score, and where the facts stood."""
        return Outcome(answer, self.score(answer, sample), list(sample.gold), facts={"depths": sample.facts["depths"]})

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first sentence names the words of the answer, and none else that the question does not name."""
        first = re.split(r"[.\n]", prediction.strip())[0]
        words = sample.facts["words"]
        named = words_named(first, words) - words_named(sample.question, words)
        return float(named == set(sample.gold[0].lower().split(",")))

    def _sample(
        self,
        setting: Setting,
        size: Size,
        opening: str,
        story: Story,
        place: tuple[str, int, int],
        words: list[str],
    ) -> Sample:
        subset, length, n = place
        rng = setting.rng(self.name, *place)
        question = QUESTION.format(question=story.question)
        depths = sorted(rng.random() for _ in story.facts)
        hidden = [Hidden(f" {fact}", depth) for fact, depth in zip(story.facts, depths, strict=True)]
        source = pieces(self.filler, setting.data, n)
        context = hay(source, length - setting.count(question), size, hidden, opening)
        return Sample(
            "-".join(map(str, place)),
            context,
            question,
            (story.answer,),
            16,
            ("\n",),
            subset,
            length,
            facts={"words": words, "depths": [round(depth, 3) for depth in depths]},
        )


def stories(file: Path) -> list[Story]:
    """A story for each question in a file of bAbI; InputError for a line that is not in its layout."""
    found = []
    facts = list[str]()
    for number, line in enumerate(text(file).split("\n"), start=1):
        if not line.strip():
            continue
        parts = _LINE.fullmatch(line.rstrip())
        if parts is None:
            raise InputError(f"{file}:{number}: expected a number with a fact or a question; use the official file")
        if parts[1] == "1":
            facts = []
        if parts[3] is None:
            facts.append(parts[2].strip())
        else:
            found.append(Story(tuple(facts), parts[2].strip(), parts[3].strip()))
    return found


def _opening(examples: Sequence[Story]) -> str:
    """What stands before the text: the worked examples, then its beginning."""
    shown = (f"Text: {' '.join(s.facts)}{QUESTION.format(question=s.question)} {s.answer}\n\n" for s in examples)
    return f"{OPENING}\n\n{''.join(shown)}Text:"
