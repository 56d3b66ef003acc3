"""longbench: LongBench's 21 subsets, or MiniLongBench, a selection of 237 of its samples, by the official scorers.

LongBench: Bai et al., arXiv 2308.14508, github.com/THUDM/LongBench (`{subset}.jsonl` with input, context, answers,
all_classes; `dataset2prompt.json` and `dataset2maxlen.json`, which may lie in `config`). MiniLongBench: Huang et al.,
arXiv 2505.19959, here `minilongbench.jsonl` with prompts that are filled in. Which of the two a record is of stands in
its `id` and in `facts.benchmark`; the two are never mixed in a run.

Prompts are the official ones and end where the answer begins: no chat form is put around them. The text up to the end
of {context} is read first, the rest is asked. Nothing is cut out of the middle of a long prompt. The official run ends
an answer of samsum at its first line break; here the scorer alone takes the first line, as it does there too.
ROUGE-L gives 0.999999995 for the right answer itself (`metrics/rouge.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlong.errors import ConfigError, InputError, nearest
from everlong.evaluate.data import mapping, rows
from everlong.evaluate.lengths import Names
from everlong.evaluate.metrics.choice import classification, code_similarity, count, retrieval
from everlong.evaluate.metrics.qa import f1, f1_zh
from everlong.evaluate.metrics.rouge import rouge_l, rouge_l_zh
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.evaluate.template import cut, filled

MINI = "minilongbench"
PROMPTS = "dataset2prompt.json"
MAXLENS = "dataset2maxlen.json"
SCORERS: Mapping[str, Callable[..., float]] = {
    "narrativeqa": f1,
    "qasper": f1,
    "multifieldqa_en": f1,
    "multifieldqa_zh": f1_zh,
    "hotpotqa": f1,
    "2wikimqa": f1,
    "musique": f1,
    "dureader": rouge_l_zh,
    "gov_report": rouge_l,
    "qmsum": rouge_l,
    "multi_news": rouge_l,
    "vcsum": rouge_l_zh,
    "trec": classification,
    "triviaqa": f1,
    "samsum": rouge_l,
    "lsht": classification,
    "passage_count": count,
    "passage_retrieval_en": retrieval,
    "passage_retrieval_zh": retrieval,
    "lcc": code_similarity,
    "repobench-p": code_similarity,
}
"""What scores each subset."""
FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
"""Subsets of which the scorer sees the first line of the answer that is not empty."""


@dataclass(frozen=True)
class Longbench(Task):
    """LongBench; MiniLongBench where its file is given."""

    name = "longbench"
    source = "LongBench, arXiv 2308.14508; MiniLongBench, arXiv 2505.19959"
    licence = "mixed, each subset its own"
    metric = "by subset: F1, ROUGE-L, accuracy, share of right numbers, similarity of code; the best of the answers"
    needs = "data"
    subsets: Names = field(default=(), metadata={"help": "names such as hotpotqa,lcc; all that are there if none"})

    def __post_init__(self) -> None:
        for name in self.subsets:
            if name not in SCORERS:
                raise ConfigError(f"subsets={name}: does not exist; {nearest(name, SCORERS)}")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """Those of the wanted subsets, in the order of the files."""
        files = {file.stem: file for file in setting.data.files("longbench", "*.jsonl", "data/*.jsonl")}
        wanted = [name for name in SCORERS if not self.subsets or name in self.subsets]
        tried: set[str] = set()
        for sample in _samples(files, wanted):
            if sample.group not in tried:
                self.score("", sample)  # so that a missing package shows before anything is read
            tried.add(sample.group)
            yield sample
        missing = [name for name in self.subsets if name not in tried]
        if missing or not tried:
            place = next(iter(files.values())).parent
            what = missing[0] if missing else "any subset"
            raise InputError(f"{place}: has no samples of {what}; give its file, or other subsets")

    def judged(self, answer: str, sample: Sample) -> Outcome:
        """The answer with its score and the name of the benchmark."""
        facts = {"benchmark": sample.facts["benchmark"]}
        return Outcome(answer, self.score(answer, sample), list(sample.gold), facts=facts)

    def score(self, prediction: str, sample: Sample) -> float:
        """The highest score that the official scorer of the subset gives with one of the right answers."""
        if sample.group in FIRST_LINE:
            prediction = prediction.lstrip("\n").partition("\n")[0]
        scorer = SCORERS[sample.group]
        more = (sample.facts["classes"],) if scorer is classification else ()
        return max((float(scorer(prediction, gold, *more)) for gold in sample.gold), default=0.0)


def _samples(files: Mapping[str, Path], wanted: Sequence[str]) -> Iterator[Sample]:
    """Samples of the wanted subsets of whichever benchmark the files are of; InputError if they are of both."""
    found = [name for name in SCORERS if name in files]
    if MINI not in files:
        for subset in wanted:
            if subset in files:
                yield from _longbench(files[subset], subset)
    elif found:
        beside = f"{found[0]}.jsonl of LongBench beside it; give one of the two benchmarks alone"
        raise InputError(f"{files[MINI]}: is MiniLongBench and has {beside}")
    else:
        yield from _minilongbench(files[MINI], wanted)


def _longbench(file: Path, subset: str) -> Iterator[Sample]:
    settings = _Settings.beside(file)
    for n, row in enumerate(rows(file, "input", "context", "answers")):
        prompt = filled(settings.prompt(subset), row, f"{file}: sample {n + 1}")
        yield _sample(("LongBench", subset, str(row.get("_id", n))), row, prompt, settings)


def _minilongbench(file: Path, wanted: Sequence[str]) -> Iterator[Sample]:
    settings = _Settings.beside(file)
    for row in rows(file, "dataset", "id", "prompt", "answers"):
        subset = row["dataset"]
        if subset not in SCORERS:
            raise InputError(f"{file}: dataset {subset!r}: is no subset of LongBench; use the official file")
        if subset in wanted:
            prompt = cut(str(row["prompt"]), settings.prompt(subset))
            yield _sample(("MiniLongBench", subset, str(row["id"])), row, prompt, settings)


def _sample(
    named: tuple[str, str, str], row: Mapping[str, Any], prompt: tuple[str, str], settings: _Settings
) -> Sample:
    """The sample of benchmark, subset and number; InputError for answers or classes that are none."""
    name, (benchmark, subset, _) = "/".join(named), named
    answers = row["answers"]
    classes = row.get("all_classes")
    for what in ("answers", "all_classes") if SCORERS[subset] is classification else ("answers",):
        given = row.get(what)
        if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
            raise InputError(f"{settings.file}: {name}: {what} is not a list of texts; use the official file")
    facts = {"benchmark": benchmark, "classes": classes}
    return Sample(name, *prompt, tuple(answers), settings.maxlen(subset), group=subset, facts=facts)


@dataclass(frozen=True)
class _Settings:
    """What the official settings files, beside a file of samples or in `config`, have for each subset."""

    file: Path
    prompts: Mapping[str, Any]
    maxlens: Mapping[str, Any]

    @classmethod
    def beside(cls, file: Path) -> _Settings:
        """InputError where they are not."""
        return cls(file, mapping(_settings_file(file, PROMPTS)), mapping(_settings_file(file, MAXLENS)))

    def prompt(self, subset: str) -> str:
        """The template of its prompts."""
        return self._value(self.prompts, PROMPTS, subset, str)

    def maxlen(self, subset: str) -> int:
        """Tokens of an answer at most."""
        return self._value(self.maxlens, MAXLENS, subset, int)

    def _value(self, values: Mapping[str, Any], name: str, subset: str, kind: type) -> Any:
        if not isinstance(value := values.get(subset), kind):
            expected = f"expected {kind.__name__}; use the official {name}"
            raise InputError(f"{self.file}: {name} has {value!r} for {subset}, {expected}")
        return value


def _settings_file(file: Path, name: str) -> Path:
    bases = (file.parent, file.parent.parent)
    places = [folder / name for base in bases for folder in (base, base / "config")]
    if found := [place for place in places if place.is_file()]:
        return found[0]
    raise InputError(f"{file}: has no {name} beside it or in config; take it from LongBench's repository")
