"""longmemeval: one question on what a user once said to an assistant, after dozens of sessions.

LongMemEval (Wu et al., arXiv 2410.10813; github.com/xiaowu0162/LongMemEval) in its official layout. Sessions are read
in the order of their dates, each as a source of its own; then the question with its date. The official judge is a large
model that is not there: here stand F1 (the score) and whether the answer contains the right one (scores: contains;
the judge asks for that, in other words). So figures are not the official ones, and "single-session-preference", whose
gold is a description of good answers, means little. A question without an answer (its id ends in _abs) is right if the
reply says that this was not mentioned, in one of a few phrases. The prompt is our own: it ends where the answer begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlong.errors import InputError
from everlong.evaluate import sources
from everlong.evaluate.data import rows
from everlong.evaluate.lengths import Names, among, at_least_one
from everlong.evaluate.metrics.squad import contains, f1
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task

TYPES = (
    "single-session-user",
    "single-session-assistant",
    "single-session-preference",
    "multi-session",
    "temporal-reasoning",
    "knowledge-update",
)
SPLITS = ("oracle", "s", "m")
SAYS_NOTHING = (
    *("not mention", "n't mention", "no information", "not enough", "not provide", "n't provide", "no mention"),
    *("not specif", "n't specif", "do not know", "don't know", "cannot be answered", "never said", "never mentioned"),
)
"""An answer with one of these (in lower case) says that the question cannot be answered."""
_FIELDS = ("question_id", "question_type", "question", "answer", "question_date", "haystack_dates", "haystack_sessions")


@dataclass(frozen=True)
class Longmemeval(Task):
    """A question after many sessions with an assistant."""

    name = "longmemeval"
    source = "LongMemEval, arXiv 2410.10813; github.com/xiaowu0162/LongMemEval"
    licence = "MIT"
    metric = "F1 of words; without an answer: says so"
    needs = "data"
    split: str = field(default="s", metadata={"help": "oracle (sessions with evidence), s (115K tokens) or m (1.5M)"})
    subsets: Names = field(default=(), metadata={"help": "types of questions; all if none"})
    max_new_tokens: int = field(default=48, metadata={"help": "tokens of an answer"})

    def __post_init__(self) -> None:
        at_least_one(max_new_tokens=self.max_new_tokens)
        among(SPLITS, split=self.split)
        if self.subsets:
            among(TYPES, subsets=self.subsets)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One for each question."""
        pattern = f"longmemeval_{self.split}"
        for file in setting.data.files(self.name, f"{pattern}.json", f"{pattern}_*.json"):
            for row in rows(file, *_FIELDS):
                if not self.subsets or row["question_type"] in self.subsets:
                    yield self._sample(row, file)

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """The answer after all sessions; where blocks are stored, whether it drew on a session with evidence."""
        sources.feed(stream, sample.context, sample.facts["parts"])
        answer, cited = sources.ask(stream, sample.question, sample.max_new_tokens, sample.stop, keep=True)
        scores = {"contains": float(_says_nothing(answer) if _unanswerable(sample) else contains(answer, sample.gold))}
        if cited is not None and sample.facts["evidence"] and not _unanswerable(sample):
            scores["citation"] = float(any(c.source in sample.facts["evidence"] for c in cited))
        yield Outcome(answer.strip(), self.score(answer, sample), list(sample.gold), scores)

    def score(self, prediction: str, sample: Sample) -> float:
        """F1; of a question that has no answer: 1 if the reply says so."""
        return float(_says_nothing(prediction)) if _unanswerable(sample) else f1(prediction, sample.gold)

    def _sample(self, row: Mapping[str, Any], file: Path) -> Sample:
        name = str(row["question_id"])
        context, parts = sources.joined(_sessions(row, file, name))
        return Sample(
            name,
            context,
            f"\n\n{row['question_date']}\nQuestion: {row['question']}\nShort answer:",
            (str(row["answer"]),),
            self.max_new_tokens,
            ("\n",),
            group=str(row["question_type"]),
            facts={"parts": parts, "evidence": frozenset(map(str, row.get("answer_session_ids") or ()))},
        )


def _unanswerable(sample: Sample) -> bool:
    return sample.id.endswith("_abs")


def _says_nothing(answer: str) -> bool:
    plain = answer.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return any(phrase in plain for phrase in SAYS_NOTHING)


def _sessions(row: Mapping[str, Any], file: Path, name: str) -> Iterator[tuple[str, str]]:
    """(source, text) of each session, oldest first; InputError if it is not of the layout."""
    try:
        dates = row["haystack_dates"]
        sessions = row["haystack_sessions"]
        names = row.get("haystack_session_ids") or [f"session_{n}" for n in range(len(sessions))]
        got = f"{len(dates)} dates, {len(sessions)} sessions and {len(names)} ids"
        if not len(dates) == len(sessions) == len(names):
            raise InputError(f"{file}: question {name} has {got}, expected as many of each; use the official file")
        for date, source, turns in sorted(zip(dates, names, sessions, strict=True), key=lambda one: str(one[0])):
            lines = [f"{turn['role'].capitalize()}: {turn['content'].strip()}" for turn in turns]
            yield str(source), "\n".join(["", "", str(date), *lines, ""])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: question {name} is not of the official layout ({error!r}); use that file") from None
