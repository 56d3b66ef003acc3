"""What a run does: tasks, each with the methods that it is run on, and the settings that all share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from everlong.errors import ConfigError, nearest
from everlong.evaluate.baseline import NAME
from everlong.evaluate.task import Task, make_task, task_class
from everlong.methods import make_method, method_names
from everlong.methods.base import Method
from everlong.models.weights import FULL


@dataclass(frozen=True)
class Plain:
    """Plain transformers in the place of a method."""

    name: ClassVar[str] = NAME

    def as_dict(self) -> dict[str, Any]:
        """It has no options."""
        return {}


Subject = Method | Plain


@dataclass(frozen=True)
class Entry:
    """One task and what it is run on."""

    task: Task
    subjects: tuple[Subject, ...]


@dataclass(frozen=True)
class Plan:
    """A run: its entries, and how the model is used."""

    entries: tuple[Entry, ...]
    model: str = "smollm2"
    memory: str | None = None
    dtype: str = "auto"
    weights: str = FULL
    device: str = "auto"
    chunk: int = 512
    threads: int | None = None
    seed: int = 0
    limit: int | None = field(default=None, metadata={"help": "samples of each part, length and depth at most"})
    skip: int = field(default=0, metadata={"help": "samples of each part, length and depth that are left out first"})

    def as_dict(self) -> dict[str, Any]:
        """All that decides what comes out, every default written out but that of `weights`, which runs used to lack."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "entries"}
        if self.weights == FULL:
            del plain["weights"]
        return plain | {"entries": [_described(entry) for entry in self.entries]}


def subjects(given: Sequence[Any]) -> tuple[Subject, ...]:
    """The methods by name, or by a mapping of name and fields; a list as the value of a field makes a grid."""
    return tuple(_subject(name, fields) for name, spec in map(_named, given) for fields in _grid(spec, ()))


def entries(given: Sequence[Any], default: Sequence[Any]) -> tuple[Entry, ...]:
    """The tasks, by name or by a mapping of name and fields; `methods` among the fields is for this task alone."""
    found = []
    for name, spec in map(_named, given):
        cls = task_class(name)
        fields = dict(spec)
        own = fields.pop("methods", default)
        several = {n for n, hint in get_type_hints(cls, include_extras=True).items() if "tuple" in str(hint)}
        tried = subjects(_several(own))
        found += [Entry(make_task(name, chosen), tried) for chosen in _grid(fields, several)]
    return tuple(found)


def _named(spec: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ConfigError(f"{spec!r}: expected a name, or a mapping with `name` and fields")
    return spec["name"], {key: value for key, value in spec.items() if key != "name"}


def _several(given: Any) -> Sequence[Any]:
    return [given] if isinstance(given, str | Mapping) else given


def _grid(fields: Mapping[str, Any], lists: set[str] | tuple[()]) -> Iterator[dict[str, Any]]:
    """Every choice of one value from each list, but for the fields whose value is itself a list."""
    choices = {n: v if isinstance(v, list) and n not in lists else [v] for n, v in fields.items()}
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _subject(name: str, fields: dict[str, Any]) -> Subject:
    if name != NAME:
        if name not in method_names():
            raise ConfigError(f"method {name!r}: does not exist; {nearest(name, [*method_names(), NAME])}")
        return make_method(name, fields)
    if fields:
        raise ConfigError(f"method {NAME}: has no options, got {', '.join(fields)}; leave them out")
    return Plain()


def _described(entry: Entry) -> dict[str, Any]:
    task = {"name": entry.task.name, "version": entry.task.version} | entry.task.as_dict()
    return {"task": task, "methods": [{"name": s.name} | s.as_dict() for s in entry.subjects]}
