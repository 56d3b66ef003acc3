"""`everlong eval`: benchmarks on every method, beside plain transformers, with records that resume."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.evaluate.plan import Entry, Plan

_LISTS = "everlong.eval"
_LIST = "list"


def _recipe(ctx: typer.Context, path: Path | None) -> Path | None:
    """The recipe's settings become the defaults of the options; its tasks and methods wait in the context."""
    if path is not None:
        from everlong.config import load_yaml

        content = load_yaml(path)
        lists = {key: content.pop(key) for key in ("tasks", "methods") if key in content}
        ctx.meta[_LISTS] = {key: value if isinstance(value, list) else [value] for key, value in lists.items()}
        options.defaults(ctx, content, path)
    return path


Recipe = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_recipe, help="YAML recipe: tasks, methods, and options."
    ),
]


def evaluate(
    ctx: typer.Context,
    tasks: Annotated[str, typer.Argument(metavar="TASK[,TASK]", help="Names of tasks, or `list`.")] = "",
    method: Annotated[
        str, typer.Option("--method", help="Methods with commas; transformers is the plain model.")
    ] = "blocks",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="FIELD=VALUE", help="A field of the method; METHOD.FIELD with several."),
    ] = None,
    task_option: Annotated[
        list[str] | None,
        typer.Option("--task-option", "-t", metavar="FIELD=VALUE", help="A field of the task, or TASK.FIELD."),
    ] = None,
    lengths: Annotated[str | None, typer.Option(help="Tokens of a sample, with commas: 4096,32K,1M.")] = None,
    depths: Annotated[str | None, typer.Option(help="Where the fact stands, 0 to 1, with commas.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples for each length and depth.")] = None,
    subsets: Annotated[str | None, typer.Option(help="Parts of a benchmark, with commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Samples of each part, length and depth at most.")] = None,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many of them first.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same samples.")] = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Files of the benchmarks; $EVERLONG_DATA if not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where records go; goes on with what is there.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep stored blocks there while a sample runs; in memory if not given."),
    ] = None,
    model: options.Model = "smollm2",
    memory: options.Memory = None,
    chunk: options.Chunk = 512,
    dtype: options.Dtype = "auto",
    weights: options.Weights = "full",
    device: options.Device = "auto",
    threads: options.Threads = None,
    config: Recipe = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Run benchmarks, each sample on each method.

    `everlong eval list` names the tasks and their options. A run writes config.json, records.jsonl and summary.json
    into --out; the same command goes on where it was interrupted. --json prints the rows of the summary: task, version,
    method, model, group, length, depth, n, score (0 to 1), its 95 % interval (low, high), seconds, peak_rss_bytes.
    """
    from everlong.cli.console import Console

    console = Console(quiet, json)
    if tasks == _LIST:
        _list(console)
        return
    from everlong.cli.model_setup import load_model
    from everlong.evaluate.data import Data
    from everlong.evaluate.plan import Plan
    from everlong.evaluate.runner import evaluate as run

    shared = {f.name: ctx.params[f.name] for f in dataclasses.fields(Plan) if f.name != "entries"}
    shared["memory"] = None if memory is None else str(memory)
    plan = Plan(_entries(ctx), **shared)
    found = Data.given(data)
    out = out or Path("results") / f"eval-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}"
    loaded = load_model(model, dtype, device, threads, console, memory, weights)
    console.note(f"Writing to {out}: the same command with --out {out} goes on after an interrupt.")
    rows = run(plan, loaded, out, found, _progress(console), store)
    if json:
        console.result(rows)
    else:
        _tell(rows, plan, out, console)


def _entries(ctx: typer.Context) -> tuple[Entry, ...]:
    """What the arguments, or the recipe, ask for; ConfigError for an option that nothing has use for."""
    from everlong.errors import ConfigError
    from everlong.evaluate.plan import entries

    lists = ctx.meta.get(_LISTS, {})
    given = ctx.params
    if given["tasks"] and "tasks" in lists:
        raise ConfigError(f"{given['tasks']}: the recipe names the tasks too; give one or the other")
    names = [name.strip() for name in given["tasks"].split(",") if name.strip()]
    specs: list[Any] = lists.get("tasks", names)
    if not specs:
        raise ConfigError("TASK: missing; `everlong eval list` names the tasks")
    source = ctx.get_parameter_source("method")
    from_recipe = "methods" in lists and (source is None or source.name != "COMMANDLINE")
    trained = options.trained(ctx)
    if trained is not None and not from_recipe and options.is_default(ctx, "method"):
        given["method"] = trained[0]
    methods = lists["methods"] if from_recipe else [name.strip() for name in given["method"].split(",")]
    methods = _with_fields(methods, _per_name(given["option"], methods, "-o"))
    if trained is not None:
        methods = [trained[1] | spec if spec["name"] == trained[0] else spec for spec in methods]
    return entries(_with_fields(specs, _task_fields(ctx, specs)), methods)


def _task_fields(ctx: typer.Context, specs: list[Any]) -> dict[str, dict[str, Any]]:
    """Fields for each task: what -t says, and the options that tasks share, for those that have them."""
    from everlong.errors import ConfigError
    from everlong.evaluate.task import task_class

    names = [_name(spec) for spec in specs]
    fields = _per_name(ctx.params["task_option"], specs, "-t")
    for shared in ("lengths", "depths", "samples", "subsets"):
        if (value := ctx.params[shared]) is None:
            continue
        having = [name for name in names if shared in task_class(name).__dataclass_fields__]
        if not having:
            raise ConfigError(f"--{shared} {value}: no effect on {', '.join(names)}; leave it out")
        for name in having:
            fields[name][shared] = value
    return fields


def _per_name(pairs: Sequence[str] | None, specs: list[Any], flag: str) -> dict[str, dict[str, Any]]:
    """Fields by task or method; plain FIELD=VALUE is for the only one."""
    from everlong.config import parse_options
    from everlong.errors import ConfigError

    names = [_name(spec) for spec in specs]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in parse_options(pairs or []).items():
        if isinstance(value, Mapping):
            if key not in found:
                raise ConfigError(f"{flag} {key}.{next(iter(value))}: {key!r} is not among {', '.join(names)}")
            found[key] |= value
        elif len(found) == 1:
            found[names[0]][key] = value
        else:
            raise ConfigError(f"{flag} {key}={value}: of which? write {flag} {names[0]}.{key}={value}")
    return found


def _name(spec: Any) -> str:
    return str(spec.get("name")) if isinstance(spec, Mapping) else str(spec)


def _with_fields(specs: list[Any], fields: dict[str, dict[str, Any]]) -> list[Any]:
    """The specs with more fields."""
    return [{**(s if isinstance(s, Mapping) else {"name": s}), **fields[_name(s)]} for s in specs]


def _progress(console: Console) -> Any:
    """Progress over characters."""
    return lambda total: console.progress("evaluating", total, "characters")


def _list(console: Console) -> None:
    """The tasks with their options."""
    import dataclasses

    from everlong.evaluate.task import task_class, task_names

    rows = []
    for name in task_names():
        cls = task_class(name)
        fields = {f.name: {"default": f.default, "help": f.metadata.get("help", "")} for f in dataclasses.fields(cls)}
        facts = {key: getattr(cls, key) for key in ("version", "source", "licence", "metric", "needs", "scores_only")}
        about = (cls.__doc__ or "").strip().split("\n")[0]
        rows.append({"task": name, "about": about} | facts | {"options": fields})
    if console.json:
        console.result(rows)
        return
    for row in rows:
        print(f"{row['task']:<18}{row['about']}")
        print(f"{'':<18}{', '.join(row['options'])}")
    console.note("\nNext: everlong eval passkey --lengths 4096 --method transformers,blocks --out results/passkey")


def _tell(rows: list[dict[str, Any]], plan: Plan, out: Path, console: Console) -> None:
    """The rows as a table."""
    from everlong.machine import circumstances

    print(f"{plan.model}; {circumstances()}\n")
    print(f"{'task':<16}{'method':<14}{'group':<16}{'length':>9}{'depth':>7}", end="")
    print(f"{'n':>5}{'score':>8}  {'95 %':<13}{'seconds':>9}")
    for row in rows:
        length = row["length"]
        depth = row["depth"]
        score = "-" if row["score"] is None else f"{row['score']:.3f}"
        between = "" if row["low"] is None else f"{row['low']:.2f}..{row['high']:.2f}"
        why = "  too long" * bool(row["too_long"]) + "  cannot" * bool(row["cannot"])
        print(
            f"{row['task']:<16}{row['method']:<14}{row['group'][:15]:<16}{'' if length is None else f'{length:,}':>9}"
            f"{'' if depth is None else depth:>7}{row['n']:>5}{score:>8}  {between:<13}{row['seconds']:>9.1f}{why}"
        )
    where = shlex.quote(str(out))
    console.note(
        f"\nWrote {out}: config.json, records.jsonl, summary.json.\nNext: everlong report {where} --out report.html"
    )
