"""longeval: the lines test of LongChat, where each line has a name and a number, and one of the numbers is asked for.

Li et al., "How Long Can Open-Source LLMs Truly Promise on Context Length?" (lmsys.org, 2023-06-29;
github.com/DachengLi1/LongChat). Read from the official files {200,400,680}_lines.jsonl. Text and question are theirs;
the question goes on, as a model without chat needs it, to where the number begins. Their score looks for the first
number of the answer, and so does this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from everlong.errors import InputError
from everlong.evaluate.data import rows
from everlong.evaluate.lengths import Names, among
from everlong.evaluate.metrics.strings import first_number
from everlong.evaluate.records import Records
from everlong.evaluate.task import Outcome, Sample, Setting, Task

SUBSETS = ("200", "400", "680")
ANSWER = "The <REGISTER_CONTENT> in line {name} is <"


class NumberedLines(NamedTuple):
    """A sample of the official files."""

    head: str
    records: Records
    question: str
    name: str
    number: str


@dataclass(frozen=True)
class LongEval(Task):
    """The number in one of 200 to 680 lines; right if it is the first number of the answer."""

    name = "longeval"
    source = "LongEval, github.com/DachengLi1/LongChat"
    licence = "Apache-2.0"
    metric = "the first number of the answer is the right one"
    needs = "data"
    subsets: Names = field(default=SUBSETS, metadata={"help": f"lines of a sample: {', '.join(SUBSETS)}"})
    lines: int | None = field(
        default=None, metadata={"help": "lines kept around the asked one, which stays at its depth (all)"}
    )

    def __post_init__(self) -> None:
        among(SUBSETS, subsets=self.subsets)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One sample for each line of the files, in their order."""
        for subset in self.subsets:
            (file,) = setting.data.files("longeval", f"{subset}_lines.jsonl")
            for n, sample in enumerate(read(file)):
                kept = sample.records.trimmed(lines=self.lines)
                context = sample.head + "\n".join(kept.records) + "\n"
                question = f"\n{sample.question} {ANSWER.format(name=sample.name)}"
                facts = {"lines": len(kept.records), "depth": kept.depth}
                yield Sample(f"{subset}-{n}", context, question, (sample.number,), 8, (">",), subset, facts=facts)

    def judged(self, answer: str, sample: Sample) -> Outcome:
        """The answer with its score, and where the line stood."""
        return Outcome(answer, self.score(answer, sample), list(sample.gold), facts=dict(sample.facts))

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the first number is that of the line."""
        return float(first_number(prediction) == sample.gold[0])


def read(file: Path) -> Iterator[NumberedLines]:
    """The samples of a file; InputError for one that is not in the official layout."""
    for n, row in enumerate(rows(file, "random_idx", "expected_number", "correct_line", "prompt")):
        parts = _parts(row)
        correct = str(row["correct_line"]).rstrip("\n")
        if parts is None or correct not in parts[1]:
            raise InputError(f"{file}: sample {n}: `prompt` does not have `correct_line`; use the official file")
        head, lines, question = parts
        records = Records(tuple(lines), lines.index(correct))
        yield NumberedLines(head, records, question, row["random_idx"][0], str(row["expected_number"]))


def _parts(row: dict[str, Any]) -> tuple[str, list[str], str] | None:
    """What stands before the lines, the lines, and the question."""
    parts = str(row["prompt"]).split("\n\n")
    if len(parts) != 3 or not isinstance(row["random_idx"], list) or not row["random_idx"]:
        return None
    return parts[0] + "\n\n", parts[1].split("\n"), parts[2].strip()
