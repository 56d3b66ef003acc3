"""locomo: questions about the talks of two friends over months, asked when all of them have been read.

LoCoMo (Maharana et al., arXiv 2402.17753; github.com/snap-research/locomo) in the layout of locomo10.json. Each session
is read under its date and as a source of its own; a method that stores blocks is also asked whether it drew on a
session with evidence (scores: citation). Official rules of scoring: F1 of Porter stems; of an answer with commas each
part counts by itself (category 1); only what stands before a semicolon counts (3); adversarial questions (5) want to
hear that nothing is known, and offer that and the wrong answer in a drawn order, as the official prompt does. The
prompts are our own: the question ends where the answer begins, since small models answer the chat form wrongly. Nothing
is cut away where a conversation is too long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlong.errors import ConfigError, InputError
from everlong.evaluate import sources
from everlong.evaluate.data import rows
from everlong.evaluate.lengths import Names, among, at_least_one
from everlong.evaluate.metrics.packages import package
from everlong.evaluate.metrics.squad import normalised, overlap
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}
NOTHING = "no information available"
_SAYS_NOTHING = (NOTHING, "not mentioned")
_DROPPED = re.compile(r"\b(a|an|the|and)\b")
_SESSION = re.compile(r"session_(\d+)")


@dataclass(frozen=True)
class LocomoQuestion:
    """A question with its right answer, its category, and the sessions that hold the evidence."""

    question: str
    gold: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True)
class Locomo(Task):
    """Questions on long conversations of two people."""

    name = "locomo"
    source = "LoCoMo, arXiv 2402.17753; github.com/snap-research/locomo"
    licence = "CC BY-NC 4.0"
    metric = "F1 of stemmed words; adversarial: says that nothing is known"
    needs = "data"
    subsets: Names = field(default=(), metadata={"help": f"{', '.join(CATEGORIES.values())}; all if none"})
    questions: int = field(default=0, metadata={"help": "of each category at most, in a conversation; 0: all"})
    max_new_tokens: int = field(default=32, metadata={"help": "tokens of an answer"})

    def __post_init__(self) -> None:
        if self.questions < 0:
            raise ConfigError(f"questions={self.questions}: must be at least 0 (of each category; 0: all)")
        at_least_one(max_new_tokens=self.max_new_tokens)
        if self.subsets:
            among(tuple(CATEGORIES.values()), subsets=self.subsets)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One for each conversation, with all its questions."""
        stemmer()
        for file in setting.data.files(self.name, "locomo*.json"):
            for n, row in enumerate(rows(file, "conversation", "qa")):
                name = str(row.get("sample_id", f"{file.stem}-{n}"))
                context, parts = sources.joined(_sessions(row["conversation"], file, name))
                asked = tuple(self._chosen(_asked(one, setting, file, name, at) for at, one in enumerate(row["qa"])))
                facts = {"parts": parts, "asked": asked}
                most = self.max_new_tokens
                if asked:
                    gold = (asked[0].gold,)
                    yield Sample(name, context, gold=gold, max_new_tokens=most, stop=("\n",), facts=facts)

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """An outcome for each question; the stream is as it was before each."""
        sources.feed(stream, sample.context, sample.facts["parts"])
        for n, one in enumerate(sample.facts["asked"]):
            answer, cited = sources.ask(stream, _prompt(one.question), sample.max_new_tokens, sample.stop)
            scores = {}
            if cited is not None and one.evidence:
                scores["citation"] = float(any(c.source in one.evidence for c in cited))
            found = judged(answer, one.gold, one.category)
            yield Outcome(answer.strip(), found, [one.gold], scores, part=str(n), group=CATEGORIES[one.category])

    def score(self, prediction: str, sample: Sample) -> float:
        """The score of an answer to the first question."""
        one = sample.facts["asked"][0]
        return judged(prediction, one.gold, one.category)

    def _chosen(self, asked: Iterator[LocomoQuestion]) -> Iterator[LocomoQuestion]:
        """Those of the wanted categories, the first `questions` of each."""
        taken = dict.fromkeys(CATEGORIES, 0)
        for one in asked:
            taken[one.category] += 1
            wanted = not self.subsets or CATEGORIES[one.category] in self.subsets
            if wanted and (not self.questions or taken[one.category] <= self.questions):
                yield one


def judged(answer: str, gold: str, category: int) -> float:
    """The official score of an answer, 0 to 1; `gold` is what counts of the right one."""
    if category == 5:
        return float(any(words in answer.lower() for words in _SAYS_NOTHING))
    if category == 1:
        answers = answer.split(",")
        parts = [max(stemmed_f1(part, wanted) for part in answers) for wanted in gold.split(",")]
        return sum(parts) / len(parts)
    return stemmed_f1(answer, gold)


def stemmed_f1(prediction: str, gold: str) -> float:
    """F1 of the Porter stems of both; commas go, and "and" goes with the articles."""
    stem = stemmer()
    return overlap(*([stem(word) for word in normalised(text, _DROPPED).split()] for text in (prediction, gold)))


def stemmer() -> Callable[[str], str]:
    """Porter's, of nltk; ConfigError without it, since F1 of whole words would be another metric."""
    return package("nltk.stem.porter").PorterStemmer().stem


def _prompt(question: str) -> str:
    return f"\n\nQuestion: {question}\nShort answer:"


def _sessions(talk: Any, file: Path, name: str) -> Iterator[tuple[str, str]]:
    """(source, text) of each session, in the order of their numbers."""
    try:
        numbers = sorted(int(found[1]) for key in talk if (found := _SESSION.fullmatch(key)) and talk[key])
        opening = f"Talks of {talk['speaker_a']} and {talk['speaker_b']}, each under its date."
        for n in numbers:
            lines = [opening, ""] if n == numbers[0] else ["", ""]
            lines += [str(talk[f"session_{n}_date_time"]), *map(_line, talk[f"session_{n}"]), ""]
            yield f"session_{n}", "\n".join(lines)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"conversation {name}"
        raise InputError(f"{file}: {what} is not of the official layout ({error!r}); use that file") from None
    if not numbers:
        raise InputError(f"{file}: conversation {name} has no session_1; use the official file")


def _line(turn: Mapping[str, Any]) -> str:
    picture = f" (shows a picture: {turn['blip_caption']})" if turn.get("blip_caption") else ""
    return f"{turn['speaker']}: {turn['text']}{picture}"


def _asked(one: Any, setting: Setting, file: Path, name: str, at: int) -> LocomoQuestion:
    """A question of the file as it is asked here."""
    try:
        category = int(one["category"])
        question = str(one["question"])
        wrong = one.get("adversarial_answer", one.get("answer"))
        said = CATEGORIES[category]
        gold = NOTHING if category == 5 else str(one["answer"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"question {at + 1} of {name}"
        raise InputError(f"{file}: {what} is not of the official layout ({error!r}); use that file") from None
    if said == "open-domain":
        gold = gold.partition(";")[0].strip()
    elif said == "temporal":
        question += " Give the date."
    elif said == "adversarial" and wrong:
        either = [str(wrong), NOTHING]
        setting.rng("locomo", name, at).shuffle(either)
        question += f" Either: {either[0]}. Or: {either[1]}."
    return LocomoQuestion(question, gold, category, _evidence(one.get("evidence") or ()))


def _evidence(given: Sequence[str]) -> frozenset[str]:
    """The sources that the marks (D3:12 is in session 3) stand in."""
    return frozenset(f"session_{n}" for mark in given for n in re.findall(r"D(\d+):", str(mark)))
