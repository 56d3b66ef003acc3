"""infinitebench: InfiniteBench's twelve subsets of 100K tokens and more, by the official scorers.

Zhang et al., arXiv 2402.13718, github.com/OpenBMB/InfiniteBench. Files `{subset}.jsonl` with context, input, answer
and, for a choice, options; samples that the official generator made at another length as `{subset}_{tokens}.jsonl`,
each of which is a group of its own. Templates come from `prompts.json` beside them: the dictionaries of the official
`src/prompt.py` by name. The default, yarn_mistral, is the one for models that complete a text.

The text up to the end of {context} is read first, the rest is asked; samples are never shortened. The opening of
Math.Find is the `prompt` of the file where it has one, else our own words. Numbers of new tokens are the official ones:
Math.Calc's 30,000 can be lowered with max_new_tokens, which costs only what would have been right beyond. The answer
itself scores 1, but for a name of two words in En.Dia, which the official scorer never finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlong.errors import ConfigError, InputError, nearest
from everlong.evaluate.data import mapping, rows
from everlong.evaluate.lengths import Names, at_least_one
from everlong.evaluate.metrics.infinite import SCORERS
from everlong.evaluate.task import Sample, Setting, Task
from everlong.evaluate.template import filled

NEW_TOKENS: Mapping[str, int] = {
    "passkey": 6,
    "number_string": 12,
    "kv_retrieval": 50,
    "longbook_sum_eng": 1200,
    "longbook_choice_eng": 40,
    "longbook_qa_eng": 40,
    "longbook_qa_chn": 40,
    "longdialogue_qa_eng": 40,
    "math_find": 3,
    "math_calc": 30000,
    "code_run": 5,
    "code_debug": 5,
}
"""Tokens of an answer to each subset at most (official)."""
PROMPTS = "prompts.json"
CHOICES = ("longbook_choice_eng", "code_debug")
_FILE = re.compile(rf"(?P<subset>{'|'.join(NEW_TOKENS)})(?:_(?P<tokens>\d+))?")
_CALL = re.compile(r"(func_\d+)\(-?\d+\)")
_WANTED = re.compile(r"The (.+?) of the list")


@dataclass(frozen=True)
class Infinitebench(Task):
    """InfiniteBench: retrieval, mathematics, code and books."""

    name = "infinitebench"
    source = "InfiniteBench, arXiv 2402.13718"
    licence = "MIT"
    metric = "by subset: accuracy, F1 (longbook_qa), ROUGE-Lsum (longbook_sum), share of right steps (math_calc)"
    needs = "data"
    subsets: Names = field(
        default=(), metadata={"help": "names such as passkey or passkey_8192; all that are there if none"}
    )
    template: str = field(default="yarn_mistral", metadata={"help": "templates in prompts.json: gpt4, claude2, ..."})
    max_new_tokens: int = field(
        default=30000, metadata={"help": "tokens of an answer where the official number is higher"}
    )

    def __post_init__(self) -> None:
        at_least_one(max_new_tokens=self.max_new_tokens)
        for name in self.subsets:
            if not _FILE.fullmatch(name):
                raise ConfigError(f"subsets={name}: does not exist; {nearest(name, NEW_TOKENS)}")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """Those of the wanted files, by subset and length."""
        given = setting.data.files("infinitebench", "*.jsonl")
        found = sorted((f for f in given if _FILE.fullmatch(f.stem)), key=lambda file: _parts(file.stem))
        for name in self.subsets or ("passkey",):
            if not any(name in _names(file) or not self.subsets for file in found):
                raise InputError(f"{given[0].parent}: has no file such as {name}.jsonl; give it, or other subsets")
        for file in found:
            if not self.subsets or _names(file) & set(self.subsets):
                yield from self._read(file)

    def score(self, prediction: str, sample: Sample) -> float:
        """What the official scorer of the subset gives."""
        return SCORERS[_parts(sample.group)[0]](prediction, sample.facts["answer"])

    def _read(self, file: Path) -> Iterator[Sample]:
        """The samples of one file."""
        subset, tokens = _parts(file.stem)
        template = self._template(file, subset)
        for n, row in enumerate(rows(file, "context", "input", "answer")):
            where = f"{file}: sample {n + 1}"
            answer = _answer(subset, row, where)
            prompt = filled(template, _fields(subset, row, where), where)
            most = min(NEW_TOKENS[subset], self.max_new_tokens)
            name = f"{file.stem}/{row.get('id', n)}"
            facts = {"answer": answer}
            sample = Sample(name, *prompt, _gold(subset, answer), most, (), file.stem, tokens or None, facts=facts)
            if not n:
                self.score("", sample)  # so that a missing package shows before anything is read
            yield sample

    def _template(self, file: Path, subset: str) -> str:
        """The template for the subset; InputError without the file of templates, ConfigError without these."""
        place = file.parent / PROMPTS
        if not place.is_file():
            raise InputError(f"{place}: missing; write the dictionaries of the official src/prompt.py there, as JSON")
        content = mapping(place)
        sets = {name.removesuffix("_templates"): value for name, value in content.items() if isinstance(value, dict)}
        if self.template not in sets:
            raise ConfigError(f"template={self.template}: is not in {place}; {nearest(self.template, sets)}")
        if not isinstance(found := sets[self.template].get(subset), str):
            raise InputError(f"{place}: {self.template} has no text for {subset}; use another template")
        return found


def _parts(stem: str) -> tuple[str, int]:
    """Subset and number of tokens (0: the official length) in the name of a file."""
    found = _FILE.fullmatch(stem)
    assert found is not None
    return found["subset"], int(found["tokens"] or 0)


def _names(file: Path) -> set[str]:
    """What `subsets` may call a file."""
    return {file.stem, _parts(file.stem)[0]}


def _fields(subset: str, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What templates may name."""
    asked = str(row["input"])
    fields = dict(row) | {"question": asked}
    fields |= {f"OPTION_{letter}": option for letter, option in zip("ABCD", row.get("options") or (), strict=False)}
    if subset == "code_run":
        call = _CALL.search(str(row.get("func_call") or asked))
        if call is None:
            raise InputError(f"{where}: input names no call such as func_1(2); use the official file")
        fields |= {"func": call[1], "func_call": call[0]}
    if subset == "math_find":
        wanted = _WANTED.search(asked)
        fields["prefix"] = row.get("prompt") or f"Look for the {wanted[1] if wanted else 'number'} in this list:"
    return fields


def _answer(subset: str, row: Mapping[str, Any], where: str) -> Any:
    """The answer as the scorer takes it: of a choice, the option and its letter."""
    answer = row["answer"]
    if answer in ("", []) or not isinstance(answer, str | int | float | list):
        raise InputError(f"{where}: got {answer!r} as the answer; use the official file")
    if subset not in CHOICES:
        return answer
    options = list(row.get("options") or ())
    text, *letter = answer if isinstance(answer, list) else [answer]
    if len(options) != 4 or text not in options:
        raise InputError(f"{where}: {text!r} is not one of four options; use the official file")
    return (text, *letter) if letter else (text, "ABCD"[options.index(text)])


def _gold(subset: str, answer: Any) -> tuple[str, ...]:
    """Predictions that are right."""
    if subset in CHOICES:
        return (f"{answer[1]}. {answer[0]}",)
    if subset == "math_calc":
        return (", ".join(map(str, answer[0] if isinstance(answer[0], list) else answer)),)
    return tuple(map(str, answer if isinstance(answer, Sequence) and not isinstance(answer, str) else [answer]))
