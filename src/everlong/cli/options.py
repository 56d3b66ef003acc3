"""What the options of a command mean: the method, the model, sampling and budgets that were chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from everlong.cli.config_file import FIELDS
from everlong.cli.groups import Hardware, MethodChoice, ModelChoice, SamplingOptions
from everlong.config import parse_options
from everlong.engine.sampling import Sampling
from everlong.environment import home
from everlong.errors import ConfigError
from everlong.library.library import Library
from everlong.methods import make_method
from everlong.methods.base import Method
from everlong.models.memory_config import memory_folder, read
from everlong.storage.budget import Budget


def passages(again: str | None) -> Any:
    """The option --again as `Session.ask` takes it; ConfigError for what is neither a number nor auto."""
    if again is None or again == "auto":
        return again
    if not again.isdecimal():
        raise ConfigError(f"--again {again}: expected a number of passages (0: recalled blocks instead), or auto")
    return int(again)


def budgets(host: str | None, disk: str | None, when_full: str) -> dict[str, Any]:
    """The budgets of a command as Session takes them, checked."""
    budget = Budget.given(host, disk, when_full)
    return {"host_budget": budget.host, "disk_budget": budget.disk, "when_full": budget.when_full}


def sampling(given: SamplingOptions) -> dict[str, Any]:
    """The sampling options by name, checked."""
    chosen = vars(given) | {"stop": tuple(given.stop or ())}
    Sampling(**chosen)
    return chosen


def chosen_method(ctx: typer.Context, given: MethodChoice, model: ModelChoice) -> Method:
    """The method that was chosen, with the fields that were given for it; by default that of the trained memory."""
    name = given.method
    memory = trained(model)
    if memory is not None and is_default(ctx, "method"):
        name = memory[0]
    fields = chosen_fields(ctx, name, given.option)
    return make_method(name, (memory[1] if memory is not None and memory[0] == name else {}) | fields)


def chosen_fields(ctx: typer.Context, name: str, pairs: list[str] | None) -> dict[str, Any]:
    """The `-o` fields, over those of the config file where that is about the same method."""
    fields: dict[str, Any] = dict(ctx.meta.get(FIELDS, {}))
    if fields.pop("name", None) != name:
        fields = {}
    return fields | parse_options(pairs or [])


def names_method(ctx: typer.Context) -> bool:
    """Whether a method, or fields of one, were given on the command line or by a config file."""
    return not is_default(ctx, "method") or bool(ctx.params["option"]) or bool(ctx.meta.get(FIELDS))


def trained(model: ModelChoice) -> tuple[str, dict[str, Any]] | None:
    """Name and fields of the method that the model's memory was trained for; None without one."""
    folder = memory_folder(model.model, model.memory)
    if folder is None:
        return None
    method = read(folder)["method"]
    return method["name"], method["fields"]


UNTOLD_DTYPE = "float32"
"""Of sessions that were kept before theirs was noted down: what `auto` was then, on a CPU."""


def own_model(
    ctx: typer.Context, model: ModelChoice, hardware: Hardware, library: Library, session: str
) -> tuple[ModelChoice, Hardware]:
    """Model, memory, weights and dtype for a kept session: those that it was made with, where no model was given.

    Its dtype counts with a model that was given, too.

    InputError for a session that is not there.
    """
    origin = {"dtype": UNTOLD_DTYPE} | library.origin(library.entry(session))
    own = {name: value for name, value in origin.items() if is_default(ctx, name)}
    if not is_default(ctx, "model"):
        return model, _with(hardware, own)
    return _with(model, own), _with(hardware, own)


def _with(group: Any, values: dict[str, Any]) -> Any:
    """The group with those of the values that it has."""
    return dataclasses.replace(group, **{name: values[name] for name in vars(group).keys() & values.keys()})


def kept_model(
    ctx: typer.Context, model: ModelChoice, hardware: Hardware, store: Path | None, session: str | None
) -> tuple[ModelChoice, Hardware]:
    """Model, memory, weights and dtype: those of the kept session where it is there and none were given."""
    folder = home() if store is None else store
    if (folder / "everlong.db").is_file() and (library := Library(folder)).find(session or "") is not None:
        return own_model(ctx, model, hardware, library, session or "")
    return model, hardware


def is_default(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given neither on the command line nor by a config file."""
    source = ctx.get_parameter_source(name)
    return source is None or source.name == "DEFAULT"
