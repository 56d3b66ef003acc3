"""`everlong train`: a trained memory from a recipe; `everlong merge`: one folder to give away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer

from everlong.cli.console import Console
from everlong.cli.groups import Hardware, ModelChoice
from everlong.cli.model_setup import load_model, prepare
from everlong.cli.verbs.train import MergeOptions, TrainOptions
from everlong.errors import CapabilityError, ConfigError
from everlong.hooks.adapter import write_model
from everlong.report.training import plot
from everlong.train.recipe import read_recipe
from everlong.train.run import METRICS, MODEL, RESULT
from everlong.train.run import train as run


def train(ctx: typer.Context, given: TrainOptions) -> None:
    """Train by the recipe, and show the result."""
    console = Console.of(given.output)
    recipe = read_recipe(given.recipe)
    prepare(given.threads, console)
    result = run(recipe, given.out, given.resume, console.note)
    if not result:
        return
    picture = _picture(given.out / METRICS, given.out / "training.png", console)
    if given.output.json:
        console.result(result)
        return
    _tell(result)
    written = ", ".join([f"{MODEL}/", METRICS, RESULT, *picture])
    next_model = shlex.quote(str(given.out / MODEL))
    console.note(f"\nWrote {given.out}: {written}.\nNext: everlong eval passkey --lengths 4096 --model {next_model}")


def merge(ctx: typer.Context, given: MergeOptions) -> None:
    """Write the folder."""
    console = Console.of(given.output)
    if given.out.exists():
        raise ConfigError(f"out={given.out}: exists; give a new folder")
    loaded = load_model(
        ModelChoice(model=given.model, memory=given.memory),
        Hardware(dtype=given.dtype, device="cpu", threads=given.threads),
        console,
    )
    if loaded.method is None:
        raise ConfigError(f"model={given.model}: has no trained memory; add --memory FOLDER")
    write_model(loaded, given.out, merged=True)
    if given.output.json:
        console.result({"folder": str(given.out), "method": {"name": loaded.method.name} | loaded.method.as_dict()})
        return
    console.note(
        f"Wrote {given.out}: {loaded.name} with its memory, {loaded.method}. It loads only through everlong: "
        f'everlong.load("{given.out}"), or --model {given.out}.'
    )


def _picture(metrics: Path, path: Path, console: Console) -> list[str]:
    """Draw the metrics; the name of the picture, none without matplotlib."""
    try:
        plot(metrics, path)
    except CapabilityError as error:
        console.warn(f"no picture: {error}")
        return []
    return [path.name]


def _tell(result: dict[str, Any]) -> None:
    """The ablation, and the gates."""
    print(f"{'memory':<10}{'loss':>9}{'digits':>9}{'answers':>9}{'n':>6}")
    for control, row in result["ablation"].items():
        shares = "".join("        -" if row[n] is None else f"{row[n]:>9.3f}" for n in ("digits", "answers"))
        print(f"{control:<10}{row['loss']:>9.4f}{shares}{row['n']:>6}")
    for name, layers in result["gates"].items():
        print(f"\nshare of the memory by layer and head, sigmoid({name})")
        for n, row in enumerate(layers):
            print(f"layer {n:<4}" + " ".join(f"{gate:.2f}" for gate in row))
