"""`everlong train`: a trained memory from a recipe; `everlong merge`: one folder to give away."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.cli.console import Console


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train, on what, for how long.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the run goes.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Train a memory by a recipe.

    Writes checkpoints, metrics.jsonl and a picture of them, and at the end the folder model/ with model, tokenizer
    and memory. Several GPUs: `accelerate launch --num_processes 8 -m everlong train RECIPE.yaml --out FOLDER`.
    --json prints result.json: the gates, and loss and answers on held-out samples with the memory and without.
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import prepare
    from everlong.train.recipe import read_recipe
    from everlong.train.run import METRICS, MODEL, RESULT
    from everlong.train.run import train as run

    console = Console(quiet, json)
    given = read_recipe(recipe)
    prepare(threads, console)
    result = run(given, out, resume, console.note)
    if not result:
        return
    picture = _picture(out / METRICS, out / "training.png", console)
    if json:
        console.result(result)
        return
    _tell(result)
    written = ", ".join([f"{MODEL}/", METRICS, RESULT, *picture])
    next_model = shlex.quote(str(out / MODEL))
    console.note(f"\nWrote {out}: {written}.\nNext: everlong eval passkey --lengths 4096 --model {next_model}")


def merge(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the folder goes; must not exist.")],
    memory: Annotated[Path | None, typer.Option("--memory", metavar="FOLDER", help="A trained memory.")] = None,
    model: options.Model = "smollm2",
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a model and its trained memory into one folder.

    Only everlong can load it: transformers would load such a model without its memory and say almost nothing, so the
    folder's config.json names a type that it does not know.
    """
    from everlong.cli.console import Console
    from everlong.cli.model_setup import load_model
    from everlong.errors import ConfigError
    from everlong.hooks.adapter import write_model

    console = Console(quiet, json)
    if out.exists():
        raise ConfigError(f"out={out}: exists; give a new folder")
    loaded = load_model(model, dtype, "cpu", threads, console, memory)
    if loaded.method is None:
        raise ConfigError(f"model={model}: has no trained memory; add --memory FOLDER")
    write_model(loaded, out, merged=True)
    if json:
        console.result({"folder": str(out), "method": {"name": loaded.method.name} | loaded.method.as_dict()})
        return
    console.note(
        f"Wrote {out}: {loaded.name} with its memory, {loaded.method}. It loads only through everlong: "
        f'everlong.load("{out}"), or --model {out}.'
    )


def _picture(metrics: Path, path: Path, console: Console) -> list[str]:
    """Draws the metrics; the name of the picture, none without matplotlib."""
    from everlong.errors import CapabilityError
    from everlong.report.training import plot

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
