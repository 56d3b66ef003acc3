"""What a recipe says: a model, a method, data in stages, and how to optimise. A YAML file and its checked form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from everlong.config import build, load_yaml
from everlong.errors import ConfigError
from everlong.methods import Method, make_method
from everlong.train.data.task import TrainingTask, make_task, task_class

GATES = ("beta",)
"""Names of parameters that are gates: their own learning rate, no decay."""
WRITES = ("w_b",)
"""Names of parameters that say how strongly each token is written: `write_lr`, no decay."""


@dataclass(frozen=True, kw_only=True)
class FromScratch:
    """A model from nothing: a Llama configuration's fields, over a tokenizer of its own."""

    tokenizer: Literal["closed", "bpe"] = field(
        default="closed", metadata={"help": "closed: the words of the data and no others; bpe: trained on `books`"}
    )
    vocabulary: int = field(default=8192, metadata={"help": "tokens of a bpe tokenizer, at most"})
    books: str | None = field(default=None, metadata={"help": "folder of .txt files for a bpe tokenizer"})
    llama: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "fields of transformers' LlamaConfig"})

    def __post_init__(self) -> None:
        if (self.tokenizer == "bpe") != (self.books is not None):
            raise ConfigError(
                f"tokenizer={self.tokenizer}: `books` names the folder that bpe, and only bpe, is trained on"
            )
        if self.tokenizer == "closed" and self.vocabulary != type(self).vocabulary:
            raise ConfigError(
                f"vocabulary={self.vocabulary}: has no effect with tokenizer=closed, which has the words of the data; "
                "leave it out, or use bpe"
            )


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW, with a learning rate of their own for the gates.

    Adam moves a parameter by about the sum of its learning rates, and a gate must be able to move by 8 or more.
    """

    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    gate_lr: float = field(default=2e-2, metadata={"help": "peak learning rate of gates (beta), without weight decay"})
    write_lr: float | None = field(
        default=None, metadata={"help": "peak learning rate of strengths of writing (delta's w_b); none: as all others"}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "of matrices; never of gates, biases and norms"})
    beta2: float = field(default=0.95, metadata={"help": "Adam's second moment"})
    warmup_steps: int = field(default=50, metadata={"help": "steps of rising learning rate"})
    decay: Literal["constant", "linear", "cosine"] = field(default="cosine", metadata={"help": "after the warm-up"})
    final: float = field(default=0.1, metadata={"help": "learning rate at the end, as a share of the peak"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "gradients are clipped to this norm"})

    def __post_init__(self) -> None:
        for name in ("lr", "gate_lr", "max_grad_norm"):
            if not (math.isfinite(got := getattr(self, name)) and got > 0):
                raise ConfigError(f"{name}={got}: must be a positive number")
        if self.write_lr is not None and not (math.isfinite(self.write_lr) and self.write_lr > 0):
            raise ConfigError(f"write_lr={self.write_lr:g}: must be a positive number, or left out")
        if self.decay == "constant" and self.final != type(self).final:
            raise ConfigError(f"final={self.final}: has no effect with decay=constant; leave it out")

    def factor(self, step: int, steps: int) -> float:
        """The share of the peak learning rate at `step` of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        at = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        falling = {"constant": 1.0, "linear": 1 - at, "cosine": (1 + math.cos(math.pi * at)) / 2}[self.decay]
        return self.final + (1 - self.final) * falling


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the curriculum: so many steps on samples of one length."""

    steps: int
    batch: int = field(metadata={"help": "samples of a step, over all processes"})
    length: int = field(metadata={"help": "tokens of a sample, at most"})
    data: Mapping[str, Mapping[str, Any]] = field(metadata={"help": "tasks with their options; `share` weighs them"})
    lr: float = field(default=1.0, metadata={"help": "multiplies every learning rate"})
    method: Mapping[str, Any] = field(default_factory=dict, metadata={"help": "fields of the method that differ"})
    bptt_segments: int | None = field(
        default=None, metadata={"help": "gradients pass through so many segments, then end (none: through all)"}
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length"):
            if (got := getattr(self, name)) < 1:
                raise ConfigError(f"{name}={got}: a stage needs at least 1")
        if self.bptt_segments is not None and self.bptt_segments < 1:
            raise ConfigError(f"bptt_segments={self.bptt_segments}: must be at least 1, or left out")
        self.tasks()

    def tasks(self) -> list[tuple[float, TrainingTask]]:
        """The tasks with their shares."""
        if not self.data:
            raise ConfigError("data: a stage needs a task, such as {passkey: {}}")
        found = []
        for name, options in self.data.items():
            given = dict(options or {})
            share = float(given.pop("share", 1.0))
            if not share > 0:
                raise ConfigError(f"share={share}: the share of {name} must be above 0")
            found.append((share, make_task(name, given)))
        return found


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run."""

    method: Mapping[str, Any] = field(metadata={"help": "name and fields of a trained method"})
    stages: list[Stage]
    model: str | None = field(default=None, metadata={"help": "a checkpoint to start from; or give `scratch`"})
    scratch: FromScratch | None = None
    train: Literal["all", "memory"] = field(
        default="all", metadata={"help": "all parameters, or the memory's alone (the model stays as it is)"}
    )
    lora: Mapping[str, Any] | None = field(
        default=None,
        metadata={"help": "fields of PEFT's LoraConfig: low-rank updates are trained in place of the model's weights"},
    )
    optimiser: Optimiser = field(default_factory=Optimiser)
    seed: int = 0
    dtype: str = field(default="float32", metadata={"help": "of the model's weights"})
    rows_at_once: int | None = field(
        default=None,
        metadata={"help": "rows that a process computes at once (none: all): memory for time, same numbers"},
    )
    checkpointing: bool = field(default=False, metadata={"help": "gradient checkpointing: memory for time"})
    checkpoint_every: int = field(default=200, metadata={"help": "steps between checkpoints"})
    log_every: int = field(default=10, metadata={"help": "steps between lines of metrics.jsonl"})
    held_out: int = field(default=32, metadata={"help": "samples for the ablation at the end"})
    cache: str | None = field(default=None, metadata={"help": "folder for tokenised books"})
    trainer: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "more of transformers' TrainingArguments, such as bf16 or fsdp"}
    )

    def __post_init__(self) -> None:
        if (self.model is None) == (self.scratch is None):
            raise ConfigError("recipe: give `model` (a checkpoint) or `scratch` (a new model), and not both")
        if self.scratch is not None and self.train == "memory":
            raise ConfigError("train=memory: a model from scratch has to be trained too; use train: all")
        if self.lora is not None and (self.scratch is not None or self.train == "memory"):
            other = "scratch" if self.scratch is not None else "train: memory"
            raise ConfigError(f"lora: has no place beside {other}; leave one of the two out")
        if self.rows_at_once is not None and self.rows_at_once < 1:
            raise ConfigError(f"rows_at_once={self.rows_at_once}: must be at least 1, or left out")
        for name in ("checkpoint_every", "log_every", "held_out"):
            if (got := getattr(self, name)) < 1:
                raise ConfigError(f"{name}={got}: must be at least 1")
        for stage in self.stages:
            method = self.method_of(stage)
            if self.optimiser.gate_lr != Optimiser.gate_lr and not set(GATES) & method.as_dict().keys():
                raise ConfigError(
                    f"gate_lr={self.optimiser.gate_lr}: {method.name} has no gates (infini has); leave it out"
                )
        if self.cache is not None:
            object.__setattr__(self, "stages", self._cached(self.cache))

    def _cached(self, folder: str) -> list[Stage]:
        """The stages, whose tasks that read books keep them in `folder`, unless they name one."""
        stages = []
        for stage in self.stages:
            data = {name: dict(options or {}) for name, options in stage.data.items()}
            for name, options in data.items():
                if "cache" in task_class(name).__dataclass_fields__:
                    options.setdefault("cache", folder)
            stages.append(replace(stage, data=data))
        if not any("cache" in options for stage in stages for options in stage.data.values()):
            raise ConfigError(f"cache={folder}: no task of this recipe reads books; leave it out")
        return stages

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def method_of(self, stage: Stage | None = None) -> Method:
        """The method, as the stage (by default the last) has it."""
        fields = {k: v for k, v in self.method.items() if k != "name"}
        stage = stage or self.stages[-1]
        return make_method(str(self.method.get("name")), fields | dict(stage.method))

    def stage_at(self, step: int) -> tuple[int, Stage]:
        """(how many steps its earlier stages have, the stage) of a step."""
        start = 0
        for stage in self.stages:
            if step < start + stage.steps:
                return start, stage
            start += stage.steps
        return start - self.stages[-1].steps, self.stages[-1]


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file; ConfigError in one line where it is wrong."""
    content = load_yaml(path)
    stages = content.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise ConfigError(f"recipe {path}: expected `stages`, a list of steps, batch, length and data")
    made: dict[str, Any] = dict(content)
    made["stages"] = [build(Stage, stage, f"stage {n} of {path}") for n, stage in enumerate(stages, 1)]
    if isinstance(made.get("scratch"), dict):
        made["scratch"] = build(FromScratch, made["scratch"], f"scratch of {path}")
    if not isinstance(made.get("method"), dict) or "name" not in made["method"]:
        raise ConfigError(f"recipe {path}: expected `method`, such as {{name: infini, segment: 128}}")
    return build(Recipe, made, f"recipe {path}")
