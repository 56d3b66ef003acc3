"""kv_retrieval: a JSON object of random identifiers, and the value of one of its keys asked for at the end.

"Lost in the Middle" (Liu et al., arXiv 2307.03172, section 3; github.com/nelson-liu/lost-in-the-middle), which
InfiniteBench has at 100K tokens. Generated here at any length and depth; or read from the official file of 75 keys,
the pairs in the order of the file. The words around the pairs are ours, and the question is the beginning of a second
object that opens with another pair of the first one: of the wordings tried on SmolLM2 this was answered best.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import rows
from everlong.evaluate.haystack import Hidden, hay, measured
from everlong.evaluate.lengths import Depths, Lengths, among, at_least_one, depths, lengths
from everlong.evaluate.records import Records
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.evaluate.words import identifier

OPENING = "Here is a JSON object. Keep in mind which value belongs to which key.\n\n{"
JOINT = ",\n "
END = "}"
TOKENS_OF_A_VALUE = 48
_LENGTHS = (4096, 7680)
_DEPTHS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class KvRetrieval(Task):
    """The value of one key among many; right if the answer has it."""

    name = "kv_retrieval"
    source = "Lost in the Middle, arXiv 2307.03172; InfiniteBench, arXiv 2402.13718"
    licence = "generated; the official file: MIT"
    metric = "the value stands in the answer"
    lengths: Lengths = field(default=_LENGTHS, metadata={"help": "tokens of text and question"})
    depths: Depths = field(default=_DEPTHS, metadata={"help": "where the asked pair stands: 0 first, 1 last"})
    samples: int = field(default=1, metadata={"help": "samples for each length and depth"})
    origin: Literal["generated", "file"] = field(
        default="generated", metadata={"help": "generated, or file: kv-retrieval-75_keys.jsonl in --data"}
    )
    keys: int | None = field(
        default=None, metadata={"help": "pairs kept around the asked one, which stays at its depth (file; all)"}
    )

    def __post_init__(self) -> None:
        lengths(self.lengths)
        depths(self.depths)
        at_least_one(samples=self.samples)
        among(("generated", "file"), origin=self.origin)
        if self.origin == "generated" and self.keys is not None:
            raise ConfigError(f"keys={self.keys}: no effect on generated pairs; give lengths, or origin=file")
        if self.origin == "file" and (self.lengths, self.depths, self.samples) != (_LENGTHS, _DEPTHS, 1):
            raise ConfigError("origin=file: lengths, depths and samples have no effect on it; leave them out")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One object for each length, depth and number; or one for each line of the file."""
        if self.origin == "generated":
            size = measured(setting.count)
            for length, depth, n in itertools.product(self.lengths, self.depths, range(self.samples)):
                yield self._generated(setting, size, length, depth, n)
            return
        for file in setting.data.files("kv", "kv-retrieval-*_keys.jsonl"):
            for n, row in enumerate(rows(file, "ordered_kv_records", "key", "value")):
                yield self._official(file, n, row)

    def judged(self, answer: str, sample: Sample) -> Outcome:
        """The answer with its score, and where the pair stood."""
        return Outcome(answer, self.score(answer, sample), list(sample.gold), facts=dict(sample.facts))

    def score(self, prediction: str, sample: Sample) -> float:
        """1 if the value stands in the prediction."""
        return float(sample.gold[0] in prediction.lower())

    def _generated(self, setting: Setting, size: Any, length: int, depth: float, n: int) -> Sample:
        rng = setting.rng(self.name, length, depth, n)
        key = identifier(rng)
        value = identifier(rng)
        example = _pair(identifier(rng), identifier(rng))
        question = _question(example, key)
        hidden = [Hidden(_pair(key, value) + JOINT, depth), Hidden(example + JOINT, (depth + 0.5) % 1)]
        more = (_pair(identifier(rng), identifier(rng)) + JOINT for _ in itertools.count())
        context = hay(more, length - setting.count(question), size, hidden, OPENING).removesuffix(JOINT) + END
        return Sample(
            f"{length}-{depth}-{n}", context, question, (value,), TOKENS_OF_A_VALUE, ('"',), length=length, depth=depth
        )

    def _official(self, file: Path, n: int, row: dict[str, Any]) -> Sample:
        """The sample of a line; InputError if the asked pair is not among its pairs."""
        pairs = row["ordered_kv_records"]
        asked = [row["key"], row["value"]]
        if not isinstance(pairs, list) or asked not in pairs or not all(map(_is_pair, pairs)):
            raise InputError(f"{file}: sample {n}: the asked pair is not among its pairs; use the official file")
        kept = Records(tuple(_pair(*pair) for pair in pairs), pairs.index(asked)).trimmed(keys=self.keys)
        context = OPENING + JOINT.join(kept.records) + END
        question = _question(kept.example, row["key"])
        facts = {"keys": len(kept.records), "depth": kept.depth}
        group = file.stem.removeprefix("kv-retrieval-")
        return Sample(f"{group}-{n}", context, question, (row["value"],), TOKENS_OF_A_VALUE, ('"',), group, facts=facts)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _pair(key: str, value: str) -> str:
    return f'"{key}": "{value}"'


def _question(example: str, key: str) -> str:
    """The beginning of a second object, up to where the value stands."""
    return f'\n\n{{{example}{JOINT}"{key}": "'
