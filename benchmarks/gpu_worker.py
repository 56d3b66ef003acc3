"""One of the processes that gpu_training.py starts: a training within its time, and what it gave."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from paired import ratio
from trained_perplexity import scored
from transformers import PreTrainedTokenizerFast, TrainerCallback

import everlong.train.build
import everlong.train.run
from everlong.machine import circumstances
from everlong.train.data.corpus import book_files, tokenised
from everlong.train.recipe import read_recipe
from everlong.train.run import train
from everlong.train.tokenizer import bpe_tokenizer
from everlong.train.trainer import MemoryTrainer

PROBE_STEPS, UNCOUNTED = 12, 4
"""Steps of a probe, of which so many first ones are not counted."""
VOCABULARY = {"table": 4096, "natural": 1024}
"""Of each kind's recipe."""
NATURAL_BOOKS = 20
"""Of so many of the training books `natural` is made: tokenising all takes minutes."""


class Clock(TrainerCallback):
    """When each step ended; training stops behind `stop_at`."""

    def __init__(self, stop_at: float) -> None:
        self.stop_at = stop_at
        self.ends = [time.time()]
        self.stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the time."""
        self.ends.append(time.time())
        if self.ends[-1] > self.stop_at and state.global_step < state.max_steps:
            self.stopped = control.should_training_stop = True


def work(folder: Path) -> None:
    """Train by folder/job.json, and measure; folder/found.json says what came out."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    place = Path(job["work"])
    made: Any = everlong.train.build
    made.bpe_tokenizer = lambda files, vocabulary: tokenizer(place, vocabulary)
    content = job["recipe"] | ({} if job["kind"] == "names" else {"cache": str(place / "books")})
    if job["kind"] == "table":
        content["stages"][0]["steps"] = agreed(folder, content, job)
    run = place / folder.parent.name / folder.name
    start, cpu = time.time(), time.process_time()
    clock, result = trained(content, run, job["stop_at"])
    first = min(UNCOUNTED, len(clock.ends) - 2)
    steps = len(clock.ends) - 1
    tokens = sum(json.loads(x)["tokens"] for x in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    if job["kind"] == "table":
        tokens = steps * content["stages"][0]["batch"] * content["stages"][0]["length"]
    found = {
        "method": content["method"],
        "seed": content["seed"],
        "steps": steps,
        "of_steps": sum(stage["steps"] for stage in content["stages"]),
        "tokens": tokens,
        "stopped": clock.stopped,
        "seconds": round(time.time() - start, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "seconds_per_step": round((clock.ends[-1] - clock.ends[first]) / (steps - first), 4),
        "ablation": result["ablation"],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "circumstances": circumstances(),
    }
    write(folder, found, "trained.json")
    if torch.cuda.is_available():
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() >> 20
    shutil.copy(run / "metrics.jsonl", folder / "metrics.jsonl")
    if job["kind"] != "table":
        shutil.copytree(run / "model", folder / "model", dirs_exist_ok=True)
    else:
        read(job, run, folder, found)
    write(folder, found)


def read(job: dict[str, Any], run: Path, folder: Path, found: dict[str, Any]) -> None:
    """Perplexities of test books into `found`, and the memory on over each control."""
    scores = scored(job["method"], run, Path(job["data"]))
    found["perplexity"] = {group: round(math.exp(x.mean()), 3) for group, x in scores["on"].items()}
    found["on_over"] = {
        way: {group: ratio(x - scores[way][group]) for group, x in scores["on"].items()}
        for way in scores
        if way != "on"
    }
    torch.save({group: x.float().cpu() for group, x in scores["on"].items()}, folder / "scores_on.pt")


def trained(content: dict[str, Any], run: Path, stop_at: float) -> tuple[Clock, dict[str, Any]]:
    """The run of a recipe, until it is over or the time is."""
    clock = Clock(stop_at)

    class Timed(MemoryTrainer):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.add_callback(clock)

    runs: Any = everlong.train.run
    runs.MemoryTrainer = Timed
    run.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    recipe = run.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    result = train(read_recipe(recipe), run, tell=lambda line: print(line, file=sys.stderr, flush=True))
    return clock, result


def agreed(folder: Path, content: dict[str, Any], job: dict[str, Any]) -> int:
    """How many steps all trainings of the table take, of which this one tells how long one lasts."""
    decided = folder.parent / "steps.json"
    if not decided.is_file():
        (stage,) = content["stages"]
        probe = content | {"stages": [stage | {"steps": PROBE_STEPS}], "held_out": 1}
        run = Path(job["work"]) / folder.parent.name / f"{folder.name}-probe"
        clock, _ = trained(probe, run, math.inf)
        shutil.rmtree(run)
        each = (clock.ends[-1] - clock.ends[UNCOUNTED]) / (PROBE_STEPS - UNCOUNTED)
        write(folder, {"seconds_per_step": each}, "probe.json")
    while not decided.is_file():
        time.sleep(0.2)
    return json.loads(decided.read_text(encoding="utf-8"))["steps"]


def write(folder: Path, found: dict[str, Any], name: str = "found.json") -> None:
    """A file that is whole or not there."""
    draft = folder / f"{name}.part"
    draft.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    draft.replace(folder / name)


def tokenizer(place: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """The tokenizer that `prepare` trained."""
    return PreTrainedTokenizerFast.from_pretrained(place / f"tokenizer-{vocabulary}")


def prepare(kind: str, data: Path, place: Path) -> None:
    """The tokenizer and tokenised books of a kind of training, unless they are there."""
    start = time.time()
    folder = data / "train_books"
    if kind == "natural":
        folder = place / "natural" / "train_books"
        folder.mkdir(parents=True, exist_ok=True)
        for file in book_files(data / "train_books")[:NATURAL_BOOKS]:
            if not (folder / file.name).is_file():
                shutil.copy2(file, folder)
    files = book_files(folder)
    size = VOCABULARY[kind]
    if not (place / f"tokenizer-{size}").is_dir():
        bpe_tokenizer(files, size).save_pretrained(place / f"tokenizer-{size}")
    tokenised(files, tokenizer(place, size), place / "books", flat=kind == "natural")
    print(f"books of {kind}: {time.time() - start:.0f} s", flush=True)
