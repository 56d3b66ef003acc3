"""A training run and its folder.

OUT/recipe.yaml        what was asked for, resolved
OUT/run.json           versions, hardware, commit, command
OUT/metrics.jsonl      a line for each `log_every` steps: loss, gates, memory norm, tokens per second
OUT/checkpoint-N/      what resuming needs (transformers' own form)
OUT/model/             the result: model, tokenizer, memory_config.json, memory.safetensors
OUT/result.json        the ablation at the end, and the gates
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PrinterCallback

from everlong.config import dump_yaml, load_yaml
from everlong.errors import ConfigError, EverlongError
from everlong.hooks.adapter import write_model
from everlong.hooks.training import Training, attach_training
from everlong.locks import lock
from everlong.machine import machine, versions
from everlong.models.load import Loaded
from everlong.models.sharding import is_sharded, whole, whole_weights
from everlong.train.ablation import ablation, held_out
from everlong.train.build import built
from everlong.train.lora import merge_lora
from everlong.train.recipe import GATES, Recipe
from everlong.train.trainer import MemoryTrainer, arguments, check_plan

RECIPE = "recipe.yaml"
RUN = "run.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
MODEL = "model"
Tell = Callable[[str], None]


def train(recipe: Recipe, out: str | Path, resume: bool = False, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Train by `recipe` into the folder `out`; what stands in its result.json.

    `resume` goes on from the last whole checkpoint, with the same losses as if it had not stopped. ConfigError for a
    folder of another recipe, one that holds a run and `resume` is not said, or one that another process trains in.
    """
    with contextlib.ExitStack() as held:
        return _train(recipe, Path(out), resume, tell, held)


def _train(recipe: Recipe, out: Path, resume: bool, tell: Tell, held: contextlib.ExitStack) -> dict[str, Any]:
    """As `train`, which lets go of the folder afterwards."""
    check_plan(recipe, arguments(recipe, out))
    checkpoint = _from_first(lambda: _claim(recipe, out, resume, held))
    for stage in recipe.stages:
        if stage.bptt_segments == 1:
            tell("warning: bptt_segments=1: no loss reaches what was written, so the memory never learns to write")
    loaded = built(recipe, tell)
    for stage in recipe.stages:
        for _, task in stage.tasks():
            task.prepare(loaded.tokenizer, lambda done, files: tell(f"tokenised {done} of {files} books"))
    cached = loaded.model.config.use_cache
    with _attached(loaded.model, recipe) as training:
        training.parameters.requires_grad_(True)
        log = _Metrics(out / METRICS, recipe.steps, checkpoint, tell) if _rank() == 0 else lambda metrics: None
        trainer = MemoryTrainer(recipe, loaded.model, training, loaded.tokenizer, out, log)
        _quietly(trainer, None if checkpoint is None else str(checkpoint))
        loaded.model.config.use_cache = cached  # Trainer turned it off
        gates = _gates(training)
        sharded = whole_weights(loaded.model) if is_sharded(loaded.model) else None
        if not trainer.is_world_process_zero():
            return {}
    model = loaded.model if sharded is None else _joined(recipe, sharded, tell).to(trainer.args.device)
    merge_lora(model)
    loaded = dataclasses.replace(loaded, model=model.eval())
    result = {"gates": gates, "ablation": _ablation(loaded, recipe, tell)}
    write_model(loaded, out / MODEL)
    (out / RESULT).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _attached(model: Any, recipe: Recipe) -> Training:
    """The model under training; parameters of the memory that it lacks are drawn from the recipe's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return attach_training(model, recipe.method_of(recipe.stages[0]))


def _joined(recipe: Recipe, weights: dict[str, Tensor], tell: Tell) -> Any:
    """The recipe's model with its memory and these weights, whole."""
    model = built(recipe, tell).model
    with attach_training(model, recipe.method_of()):
        model.load_state_dict(weights)
    return model


def _rank() -> int:
    """The number of this process among those that train together; 0 alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives in the first of the processes that train together, or raises there: in all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return make()
    found: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            found[0] = make()
        except EverlongError as error:
            found[1] = error
    dist.broadcast_object_list(found, 0)
    if found[1] is not None:
        raise found[1]
    return found[0]


def _claim(recipe: Recipe, out: Path, resume: bool, held: contextlib.ExitStack) -> Path | None:
    """The checkpoint to go on from, in a folder that belongs to this recipe, and to this process while `held`."""
    resolved = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if (out / RECIPE).is_file():
        if load_yaml(out / RECIPE) != resolved:
            raise ConfigError(f"{out}: holds a run of another recipe; choose another --out, or remove that folder")
        if not resume:
            raise ConfigError(f"{out}: holds a run of this recipe; add --resume to go on, or choose another --out")
    elif resume:
        raise ConfigError(f"{out}: holds no run to go on with; leave --resume out")
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no run; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    held.enter_context(_alone(out))
    facts = {"command": sys.argv, "versions": versions(), "machine": machine(), "time": time.strftime("%F %T")}
    (out / RUN).write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    (out / RECIPE).write_text(dump_yaml(resolved), encoding="utf-8")
    whole = []
    for folder in out.glob("checkpoint-*"):
        if _is_whole(folder):
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=_number, default=None)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other process trains in this folder meanwhile; ConfigError if one does. A killed process holds nothing."""
    folder = os.open(out, os.O_RDONLY)
    try:
        said = f"{out}: another process trains here; wait for it, or choose another --out"
        lock(folder, ConfigError(said))
        yield
    finally:
        os.close(folder)


def _is_whole(folder: Path) -> bool:
    """Whether the last file that a checkpoint gets is there and can be read."""
    try:
        return isinstance(json.loads((folder / "trainer_state.json").read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def _number(folder: Path) -> int:
    return int(re.sub(r"\D", "", folder.name) or 0)


class _Metrics:
    """Lines of metrics.jsonl, from the checkpoint on; and one line of progress for each."""

    def __init__(self, path: Path, steps: int, checkpoint: Path | None, tell: Tell) -> None:
        self.path = path
        self.steps = steps
        self.tell = tell
        self.at = time.perf_counter()
        self.start = 0 if checkpoint is None else _number(checkpoint)
        kept = []
        if checkpoint is not None and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= self.start]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self.began = self.at

    def __call__(self, metrics: dict[str, Any]) -> None:
        now = time.perf_counter()
        metrics["seconds"] = round(now - self.at, 3)
        metrics["tokens_per_s"] = round(metrics["tokens"] / max(1e-9, now - self.at), 1)
        self.at = now
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        done = metrics["step"]
        left = (now - self.began) / max(1, done - self.start) * (self.steps - done)
        self.tell(
            f"step {done:,}/{self.steps:,}  loss {metrics['loss']:.4f}  {metrics['tokens_per_s']:,.0f} tokens/s  "
            f"{_minutes(left)} left"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _quietly(trainer: Any, checkpoint: str | None) -> None:
    """Train; transformers' advice about names that its own models have does not hold for ours."""
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(transformers|torch|accelerate)\b")
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_state()


def _gates(training: Training) -> dict[str, list[list[float]]]:
    """The share of the memory per layer and head, for each gate."""
    found = {n: getattr(training.parameters, n) for n in GATES if hasattr(training.parameters, n)}
    return {name: [[round(g, 4) for g in row] for row in whole(x).sigmoid().tolist()] for name, x in found.items()}


def _ablation(loaded: Loaded, recipe: Recipe, tell: Tell) -> dict[str, dict[str, float | None]]:
    found = ablation(loaded.model, loaded.method, held_out(recipe, loaded.tokenizer, recipe.held_out), tell)
    return {
        control: {name: None if math.isnan(x) else round(x, 6) for name, x in values.items()}
        for control, values in found.items()
    }
