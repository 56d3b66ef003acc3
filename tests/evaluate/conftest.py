"""A tiny model with a tokenizer, and a task that is as simple as one can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from everlong.evaluate import task as tasks
from everlong.evaluate.lengths import Lengths
from everlong.evaluate.task import Sample, Setting, Task
from everlong.hooks.adapter import load
from everlong.models.load import Loaded
from tests.models.tiny import save_folder


@dataclass(frozen=True)
class Echo(Task):
    """Words with a number; judged by whether anything was said."""

    source = licence = metric = "made for this test"
    lengths: Lengths = field(default=(20, 40), metadata={"help": "characters"})
    samples: int = field(default=2, metadata={"help": "samples for each length"})

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        for length in self.lengths:
            for n in range(self.samples):
                word = str(setting.rng("echo", length, n).randrange(1000))
                text = (word + " the tide rose and fell; ") * length
                yield Sample(f"{length}-{n}", text[:length], " And", (word,), 3, length=length, group=f"part {n}")

    def score(self, prediction: str, sample: Sample) -> float:
        return float(bool(prediction))


@pytest.fixture
def echo(monkeypatch) -> type[Task]:
    """The task `echo`, registered for one test."""
    tasks.task_names()
    monkeypatch.setitem(tasks._REGISTRY._classes, "echo", Echo)
    monkeypatch.setattr(Echo, "name", "echo")
    return Echo


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Loaded:
    """A random Llama, trained on 128 tokens, with a byte-level tokenizer."""
    return load(save_folder(tmp_path_factory.mktemp("tiny")))
