"""What `everlong eval` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import config_file, groups
from everlong.config import load_yaml

LISTS = "everlong.eval"
"""Where the context keeps the tasks and methods that a recipe names."""


def _recipe(ctx: typer.Context, path: Path | None) -> Path | None:
    """The recipe's settings become the defaults of the options; its tasks and methods wait in the context."""
    if path is not None:
        content = load_yaml(path)
        lists = {key: content.pop(key) for key in ("tasks", "methods") if key in content}
        ctx.meta[LISTS] = {key: value if isinstance(value, list) else [value] for key, value in lists.items()}
        config_file.defaults(ctx, content, path)
    return path


Recipe = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_recipe, help="YAML recipe: tasks, methods, and options."
    ),
]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Run benchmarks, each sample on each method.

    `everlong eval list` names the tasks and their options. A run writes config.json, records.jsonl and summary.json
    into --out; the same command goes on where it was interrupted. --json prints the rows of the summary: task, version,
    method, model, group, length, depth, n, score (0 to 1), its 95 % interval (low, high), seconds, peak_rss_bytes.
    With --batch many samples are read and answered in one forward; plain transformers, and tasks that ask for more than
    an answer, run one at a time and are named.
    """

    tasks: Annotated[str, typer.Argument(metavar="TASK[,TASK]", help="Names of tasks, or `list`.")] = ""
    method: Annotated[str, typer.Option("--method", help="Methods with commas; transformers is the plain model.")] = (
        "blocks"
    )
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="FIELD=VALUE", help="A field of the method; METHOD.FIELD with several."),
    ] = None
    task_option: Annotated[
        list[str] | None,
        typer.Option("--task-option", "-t", metavar="FIELD=VALUE", help="A field of the task, or TASK.FIELD."),
    ] = None
    lengths: Annotated[str | None, typer.Option(help="Tokens of a sample, with commas: 4096,32K,1M.")] = None
    depths: Annotated[str | None, typer.Option(help="Where the fact stands, 0 to 1, with commas.")] = None
    samples: Annotated[int | None, typer.Option(min=1, help="Samples for each length and depth.")] = None
    subsets: Annotated[str | None, typer.Option(help="Parts of a benchmark, with commas.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Samples of each part, length and depth at most.")] = None
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many of them first.")] = 0
    seed: Annotated[int, typer.Option(help="The same seed makes the same samples.")] = 0
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Files of the benchmarks; $EVERLONG_DATA if not given.")
    ] = None
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where records go; goes on with what is there.")
    ] = None
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep stored blocks there while a sample runs; in memory if not given."),
    ] = None
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples at once, where answers are asked for.")] = 1
    model: groups.ModelChoice
    chunk: groups.Chunk = 512
    hardware: groups.Hardware
    config: Recipe = None
    output: groups.Output
