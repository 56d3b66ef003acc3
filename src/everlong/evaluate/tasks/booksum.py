"""booksum: a summary of a long text, by ROUGE.

BookSum (Kryściński et al., arXiv 2105.08209) in the form {document, references}; SQuALITY (Wang et al., arXiv
2205.11465: stories whose first question asks for the plot, four summaries by people) and QMSum (Zhong et al., arXiv
2104.05938: queries over meetings) in their official layouts. ROUGE-1, 2 and L are those of the package rouge-score with
stemming; of several references the best counts, for each of the three by itself, as SQuALITY's own script does.
The model goes on behind "Answer: In summary,": small models answer the chat form wrongly, and SmolLM2-135M ends at once
behind "Summary:" or a bare "Answer:" (tried on the first SQuALITY story).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlong.errors import InputError
from everlong.evaluate.data import rows
from everlong.evaluate.lengths import Names, among, at_least_one
from everlong.evaluate.metrics.packages import package
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task

ROUGE = ("rouge1", "rouge2", "rougeL")
_ALL = "Summarise the text."
_STOP = ("\nQuestion:",)
Asked = tuple[str, tuple[str, ...]]
"""A question and the references for it."""


@dataclass(frozen=True)
class Booksum(Task):
    """Summaries of stories, meetings and books."""

    name = "booksum"
    source = "BookSum, arXiv 2105.08209; SQuALITY, arXiv 2205.11465; QMSum, arXiv 2104.05938"
    licence = "SQuALITY: CC BY 4.0; QMSum: MIT; BookSum: BSD-3-Clause, its texts their own"
    metric = "ROUGE-L F1, the best over the references"
    needs = "data"
    subsets: Names = field(default=("squality",), metadata={"help": "squality, qmsum, booksum"})
    questions: int = field(default=1, metadata={"help": "asked of each text at most; the one on the whole comes first"})
    max_new_tokens: int = field(default=256, metadata={"help": "tokens of a summary"})

    def __post_init__(self) -> None:
        at_least_one(questions=self.questions)
        at_least_one(max_new_tokens=self.max_new_tokens)
        among(tuple(_LAYOUTS), subsets=self.subsets)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One for each text, with its questions."""
        _scorer()
        for subset in self.subsets:
            fields, read = _LAYOUTS[subset]
            for file in setting.data.files(subset, "*.jsonl"):
                for n, row in enumerate(rows(file, *fields)):
                    document, asked = _read(read, row, file, n)
                    yield self._sample(subset, f"{subset}-{file.stem}-{n}", document, asked[: self.questions])

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """An outcome for each question; the stream is as it was before each but the last."""
        stream.feed(sample.context)
        asked = sample.facts["asked"]
        for n, (question, gold) in enumerate(asked):
            answer = stream.ask(_prompt(question), sample.max_new_tokens, sample.stop, keep=n == len(asked) - 1)
            yield self._outcome(answer, gold, str(n))

    def score(self, prediction: str, sample: Sample) -> float:
        """ROUGE-L of the summary that the first question asks for."""
        return rouge(prediction, sample.gold)["rougeL"]

    def _outcome(self, answer: str, gold: Sequence[str], part: str) -> Outcome:
        found = rouge(answer, gold)
        return Outcome(answer.strip(), found["rougeL"], list(gold), found, {"words": len(answer.split())}, part)

    def _sample(self, subset: str, name: str, document: str, asked: list[Asked]) -> Sample:
        question, gold = asked[0]
        facts = {"asked": asked}
        return Sample(name, document, _prompt(question), gold, self.max_new_tokens, _STOP, subset, facts=facts)


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """F1 of ROUGE-1, 2 and L by name, each with the reference that suits it best.

    >>> rouge("the cats sat", ["a dog ran", "the cat sat down"])["rouge1"]
    0.8571428571428571
    """
    scorer = _scorer()
    found = [scorer.score(reference, prediction) for reference in references]
    return {name: max((float(scores[name].fmeasure) for scores in found), default=0.0) for name in ROUGE}


def _scorer() -> Any:
    """The scorer of rouge-score; ConfigError without the package."""
    return package("rouge_score.rouge_scorer").RougeScorer(list(ROUGE), use_stemmer=True)


def _prompt(question: str) -> str:
    return f"\n\nQuestion: {question}\nAnswer: In summary,"


def _read(read: Any, row: Mapping[str, Any], file: Path, n: int) -> tuple[str, list[Asked]]:
    """The text of a row and what is asked of it; InputError if it is not of the layout."""
    try:
        document, asked = read(row)
        empty = not document.strip() or not asked or not all(gold for _, gold in asked)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: text {n + 1} is not of the official layout ({error!r}); use that file") from None
    if empty:
        raise InputError(f"{file}: text {n + 1} has no words, question or reference; use the official file")
    return document, asked


def _squality(row: Mapping[str, Any]) -> tuple[str, list[Asked]]:
    asked = sorted(row["questions"], key=lambda question: question["question_number"])
    return row["document"], [(q["question_text"], _texts(r["response_text"] for r in q["responses"])) for q in asked]


def _qmsum(row: Mapping[str, Any]) -> tuple[str, list[Asked]]:
    lines = [f"{turn['speaker']}: {turn['content']}" for turn in row["meeting_transcripts"]]
    asked = [*row["general_query_list"], *row.get("specific_query_list", ())]
    return "\n".join(lines), [(one["query"], _texts([one["answer"]])) for one in asked]


def _booksum(row: Mapping[str, Any]) -> tuple[str, list[Asked]]:
    given = row["references"]
    return row["document"], [(row.get("question") or _ALL, _texts([given] if isinstance(given, str) else given))]


def _texts(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in given if text.strip())


_LAYOUTS = {
    "squality": (("document", "questions"), _squality),
    "qmsum": (("meeting_transcripts", "general_query_list"), _qmsum),
    "booksum": (("document", "references"), _booksum),
}
