"""What `everlong train` and `everlong merge` take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a memory by a recipe.

    Writes checkpoints, metrics.jsonl and a picture of them, and at the end the folder model/ with model, tokenizer
    and memory. Several GPUs: `accelerate launch --num_processes 8 -m everlong train RECIPE.yaml --out FOLDER`.
    --json prints result.json: the gates, and loss and answers on held-out samples with the memory and without.
    """

    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train, on what, for how long.")]
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the run goes.")]
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False
    threads: groups.Threads = None
    output: groups.Output


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Write a model and its trained memory into one folder.

    Only everlong can load it: transformers would load such a model without its memory and say almost nothing, so the
    folder's config.json names a type that it does not know.
    """

    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the folder goes; must not exist.")]
    memory: Annotated[Path | None, typer.Option("--memory", metavar="FOLDER", help="A trained memory.")] = None
    model: groups.Model = "smollm2"
    dtype: groups.Dtype = "auto"
    threads: groups.Threads = None
    output: groups.Output
