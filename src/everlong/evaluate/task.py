"""What a benchmark is: a frozen dataclass whose fields are its options, with samples, a way to run one, and a score."""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from everlong.config import Registry
from everlong.evaluate.data import Data
from everlong.evaluate.stream import Stream
from everlong.text.tokenize import token_ids

_REGISTRY: Registry[Task] = Registry("task", lambda: importlib.import_module("everlong.evaluate.tasks"))
"""Every file in `tasks/` registers what it defines."""


@dataclass(frozen=True)
class Sample:
    """A text to read, what is asked afterwards, and the answers that are right."""

    id: str
    """Tells the sample from all others of its task and settings."""
    context: str
    """Read first, without a question in sight."""
    question: str = ""
    """Asked then; it ends where the answer begins."""
    gold: tuple[str, ...] = ()
    max_new_tokens: int = 32
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    group: str = ""
    """The part of the task that it belongs to: a subset, a sub-task."""
    length: int | None = None
    """Wanted tokens of context and question, where the task has lengths."""
    depth: float | None = None
    """Where the asked fact stands: 0 is the start, 1 the end."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else running or judging it needs."""


@dataclass(frozen=True)
class Outcome:
    """What came of a sample, or of one question of it."""

    prediction: Any
    score: float | None
    """0 (wrong) to 1 (right); None where nothing could be judged."""
    gold: Any = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """Further metrics by name, 0 to 1."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else a report may show (JSON)."""
    part: str = ""
    """Which question of the sample, where it has several."""
    group: str | None = None
    """In the place of the sample's group."""


@dataclass(frozen=True)
class Setting:
    """What samples are made from."""

    tokenizer: Any
    data: Data
    seed: int = 0

    def count(self, text: str) -> int:
        """Tokens of `text`, without special ones."""
        return len(token_ids(self.tokenizer, text))

    def rng(self, *what: object) -> random.Random:
        """Random numbers of their own for `what` (task, length, depth, number): none depends on another's draws."""
        return random.Random("/".join(map(str, (self.seed, *what))))


@dataclass(frozen=True)
class Task:
    """A benchmark. A subclass with a `name` is registered; its fields are options of commands and recipes."""

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    """Raised whenever the same prediction or the same settings would give another record."""
    source: ClassVar[str] = ""
    """Where the benchmark comes from: paper, repository."""
    licence: ClassVar[str] = ""
    """Of the data that it reads, or "generated"."""
    metric: ClassVar[str] = ""
    """What the score is, in a few words."""
    needs: ClassVar[Literal["nothing", "data"]] = "nothing"
    """Whether a folder of files must be given."""
    scores_only: ClassVar[bool] = False
    """Whether nothing is generated, so that methods which can only score take part."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _REGISTRY.add(cls)

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """All samples, in an order that does not change. InputError for files that are not as they should be."""
        raise NotImplementedError

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """What comes of the sample on an empty stream: here the text is read, the question asked, the answer judged."""
        stream.feed(sample.context)
        answer = stream.ask(sample.question, sample.max_new_tokens, sample.stop)
        yield self.judged(answer, sample)

    def judged(self, answer: str, sample: Sample) -> Outcome:
        """The answer with its score."""
        return Outcome(answer, self.score(answer, sample), list(sample.gold))

    def score(self, prediction: str, sample: Sample) -> float:
        """How right the prediction is, 0 to 1."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


task_names = _REGISTRY.names
task_class = _REGISTRY.find
make_task = _REGISTRY.make
