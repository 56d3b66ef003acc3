"""streameval: lines without end, and after every ten of them the number in the line `distance` lines back.

StreamEval of StreamingLLM (Xiao et al., arXiv 2309.17453, section 4.3), over lines as LongEval has them. Each distance
is a stream of its own, so that no line is asked for twice; questions and answers stay in the stream. The lines are our
own by default, else those of LongEval's official files one after the other. The question is worded by us and ends where
the number begins; SmolLM2 with dense attention, asked for twelve lines twenty lines back, was right on 4 with this
wording and on 1 where the number followed a sentence.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from everlong.errors import ConfigError
from everlong.evaluate.data import Data
from everlong.evaluate.haystack import Size, measured
from everlong.evaluate.lengths import Lengths, among, at_least_one, lengths
from everlong.evaluate.metrics.strings import first_number
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.evaluate.tasks.longeval import read
from everlong.evaluate.words import names

EVERY = 10
OPENING = "A record of lines that does not end. Each line has a name and a number.\n\n"
LINE = "line {name}: REGISTER_CONTENT is <{number}>\n"
QUESTION = "What is the <REGISTER_CONTENT> in line {name}?\nline {name}: REGISTER_CONTENT is <"
TOKENS_OF_AN_ANSWER = 8
_LINE = re.compile(r"line (.+): REGISTER_CONTENT is <(\d+)>")


@dataclass(frozen=True)
class StreamEval(Task):
    """Numbers in a stream of lines; right if a line's number is the first one of the answer."""

    name = "streameval"
    source = "StreamingLLM, arXiv 2309.17453; LongEval, github.com/DachengLi1/LongChat"
    licence = "generated; the official lines: Apache-2.0"
    metric = "share of questions whose answer has the right number first"
    lengths: Lengths = field(default=(4096, 7680), metadata={"help": "tokens of a stream, questions included"})
    distances: Lengths = field(default=(20, 60, 100), metadata={"help": "lines between the asked one and its question"})
    samples: int = field(default=1, metadata={"help": "streams for each length and distance"})
    origin: Literal["generated", "file"] = field(
        default="generated", metadata={"help": "generated, or file: LongEval's *_lines.jsonl in --data"}
    )

    def __post_init__(self) -> None:
        lengths(self.lengths)
        at_least_one(samples=self.samples)
        among(("generated", "file"), origin=self.origin)
        if not self.distances or min(self.distances) < 1:
            raise ConfigError(f"distances={','.join(map(str, self.distances))}: expected numbers of lines, such as 20")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One stream for each length, distance and number."""
        size = measured(setting.count)
        official = distinct(setting.data) if self.origin == "file" else []
        for length, distance, n in itertools.product(self.lengths, self.distances, range(self.samples)):
            rng = setting.rng(self.name, length, distance, n)
            source = rotated(official, rng) if official else generated(rng)
            lines, asked = fitted(source, length, distance, size)
            if not asked:
                raise ConfigError(f"distances={distance}: no line of {length} tokens is so far back; give longer ones")
            yield Sample(
                f"{length}-{distance}-{n}",
                OPENING + "".join(lines),
                gold=tuple(_named(lines[at])[1] for at in asked),
                max_new_tokens=TOKENS_OF_AN_ANSWER,
                stop=(">",),
                group=f"distance {distance}",
                length=length,
                facts={"distance": distance},
            )

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """Ten lines are read, a question is asked, and so on; one outcome for each question."""
        lines = [line + "\n" for line in sample.context.removeprefix(OPENING).split("\n")[:-1]]
        before = OPENING
        for end in range(EVERY, len(lines) + 1, EVERY):
            stream.feed(before + "".join(lines[end - EVERY : end]))
            before = ""
            if (at := end - sample.facts["distance"]) < 0:
                continue
            name, number = _named(lines[at])
            answer = stream.ask(QUESTION.format(name=name), sample.max_new_tokens, sample.stop, keep=True)
            before = "\n"
            score = self.score(answer, replace(sample, gold=(number,)))
            yield Outcome(answer, score, [number], facts={"line": at}, part=f"line {at}")

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first number is that of the line."""
        return float(first_number(prediction) == sample.gold[0])


def generated(rng: random.Random) -> Iterator[str]:
    """Lines with names of our own and numbers of up to five digits, for ever."""
    return (LINE.format(name=name, number=rng.randint(1, 50_000)) for name in names(rng))


def distinct(data: Data) -> list[str]:
    """The lines of all official files; of those with one name, the first."""
    found: dict[str, str] = {}
    for file in data.files("longeval", "*_lines.jsonl"):
        for sample in read(file):
            for line in sample.records.records:
                if named := _LINE.fullmatch(line):
                    found.setdefault(named[1], line + "\n")
    return list(found.values())


def rotated(lines: Sequence[str], rng: random.Random) -> Iterator[str]:
    """The lines from any one of them on, again and again."""
    start = rng.randrange(len(lines))
    return itertools.islice(itertools.cycle(lines), start, None)


def fitted(source: Iterator[str], tokens: int, distance: int, size: Size) -> tuple[list[str], list[int]]:
    """As many lines, in tens, as fit together with their questions and answers; and which are asked for."""
    lines = list[str]()
    asked = list[int]()
    left = tokens - size(OPENING)
    while True:
        lines += itertools.islice(source, EVERY)
        left -= sum(map(size, lines[-EVERY:]))
        at = len(lines) - distance
        if at >= 0:
            left -= size(QUESTION.format(name=_named(lines[at])[0])) + TOKENS_OF_AN_ANSWER + 1
        if left < 0:
            return lines[:-EVERY], asked
        asked += [at] if at >= 0 else []


def _named(line: str) -> tuple[str, str]:
    """Name and number of a line."""
    found = _LINE.match(line)
    assert found is not None
    return found[1], found[2]
