"""`everlong eval`: benchmarks on every method, beside plain transformers, with records that resume."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from everlong.cli import options
from everlong.cli.console import Console
from everlong.cli.model_setup import load_model
from everlong.cli.verbs.evaluate import LISTS, EvalOptions
from everlong.config import parse_options
from everlong.errors import ConfigError
from everlong.evaluate.data import Data
from everlong.evaluate.plan import Entry, Plan, entries
from everlong.evaluate.runner import evaluate as run
from everlong.evaluate.task import task_class, task_names
from everlong.machine import circumstances

_LIST = "list"


def evaluate(ctx: typer.Context, given: EvalOptions) -> None:
    """Run the plan that the options and the recipe make, and show its summary."""
    console = Console.of(given.output)
    if given.tasks == _LIST:
        _list(console)
        return
    shared = {f.name: ctx.params[f.name] for f in dataclasses.fields(Plan) if f.name != "entries"}
    shared["memory"] = None if given.model.memory is None else str(given.model.memory)
    plan = Plan(_entries(ctx, given), **shared)
    found = Data.given(given.data)
    out = given.out or Path("results") / f"eval-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}"
    loaded = load_model(given.model, given.hardware, console)
    plan = dataclasses.replace(plan, dtype=loaded.origin["dtype"])
    console.note(f"Writing to {out}: the same command with --out {out} goes on after an interrupt.")
    rows = run(plan, loaded, out, found, _progress(console), given.store, given.batch, console.note)
    if given.output.json:
        console.result(rows)
    else:
        _tell(rows, plan, out, console)


def _entries(ctx: typer.Context, given: EvalOptions) -> tuple[Entry, ...]:
    """What the arguments, or the recipe, ask for; ConfigError for an option that nothing has use for."""
    lists = ctx.meta.get(LISTS, {})
    if given.tasks and "tasks" in lists:
        raise ConfigError(f"{given.tasks}: the recipe names the tasks too; give one or the other")
    specs: list[Any] = lists.get("tasks", [name for name in _names(given.tasks) if name])
    if not specs:
        raise ConfigError("TASK: missing; `everlong eval list` names the tasks")
    source = ctx.get_parameter_source("method")
    from_recipe = "methods" in lists and (source is None or source.name != "COMMANDLINE")
    trained = options.trained(given.model)
    named = trained[0] if trained is not None and options.is_default(ctx, "method") else given.method
    methods = lists["methods"] if from_recipe else _names(named)
    methods = _with_fields(methods, _per_name(given.option, methods, "-o"))
    if trained is not None:
        methods = [trained[1] | spec if spec["name"] == trained[0] else spec for spec in methods]
    return entries(_with_fields(specs, _task_fields(given, specs)), methods)


def _names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",")]


def _task_fields(given: EvalOptions, specs: list[Any]) -> dict[str, dict[str, Any]]:
    """Fields for each task: what -t says, and the options that tasks share, for those that have them."""
    names = [_name(spec) for spec in specs]
    fields = _per_name(given.task_option, specs, "-t")
    for shared in ("lengths", "depths", "samples", "subsets"):
        if (value := getattr(given, shared)) is None:
            continue
        having = [name for name in names if shared in task_class(name).__dataclass_fields__]
        if not having:
            raise ConfigError(f"--{shared} {value}: no effect on {', '.join(names)}; leave it out")
        for name in having:
            fields[name][shared] = value
    return fields


def _per_name(pairs: Sequence[str] | None, specs: list[Any], flag: str) -> dict[str, dict[str, Any]]:
    """Fields by task or method; plain FIELD=VALUE is for the only one."""
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
