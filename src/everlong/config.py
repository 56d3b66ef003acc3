"""Dataclasses from and to the outside: `-o field=value` options, YAML files, one-line errors."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from everlong.errors import ConfigError, nearest, one_line

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name: those that options, recipes and command lines may ask for.

    `what` is what messages call one of them. `homes` names the module of ours that registers each name, imported when
    that name is asked for; `fill` is called before other names are looked up, to import the files that register them.
    Other packages register theirs by an entry point of the group `everlong.<what>s` (spaces as _), which is imported
    then too.
    """

    def __init__(
        self, what: str, fill: Callable[[], object] = lambda: None, homes: Mapping[str, str] | None = None
    ) -> None:
        self.what = what
        self._fill_own = fill
        self._homes = dict(homes or {})
        self._classes: dict[str, type[T]] = {}
        self._elsewhere: list[str] | None = None

    def add(self, cls: type[T]) -> None:
        """Register `cls` under its own `name`; a class without one, or that only inherits it, cannot be asked for.

        ConfigError for a name that another class has.
        """
        name = vars(cls).get("name")
        if not name:
            return
        other = self._classes.get(name)
        home = self._homes.get(name, cls.__module__)
        if home != cls.__module__ or (other is not None and not _made_anew(other, cls)):
            holder = home if other is None else f"{other.__module__}.{other.__qualname__}"
            raise ConfigError(
                f"{self.what} {name!r}: is {holder} already; give {cls.__module__}.{cls.__qualname__} a name of its own"
            )
        self._classes[name] = cls

    def name_of(self, one: T) -> str:
        """The name under which `one` can be made again; ConfigError for one whose class is not registered."""
        for name, cls in self._classes.items():
            if cls is type(one):
                return name
        raise ConfigError(
            f"{self.what} {type(one).__qualname__}: has no name of its own and could not be made again; write "
            f"`name = ...` into the class"
        )

    def _fill(self) -> None:
        """Import all that register themselves; what another package cannot give is said where a name is missed."""
        self._fill_own()
        if self._elsewhere is not None:
            return
        self._elsewhere = []
        for entry in entry_points(group=f"everlong.{self.what.replace(' ', '_')}s"):
            try:
                entry.load()
            except Exception as error:  # noqa: BLE001 (of a stranger's package)
                self._elsewhere.append(f"{entry.name} ({entry.value}) cannot be imported: {one_line(error, 120)}")

    def names(self) -> list[str]:
        """The registered names, sorted."""
        self._fill()
        return sorted(self._homes.keys() | self._classes.keys())

    def check(self, name: str) -> None:
        """ConfigError, naming the nearest, unless there is a class of this name; imports nothing that has a home."""
        if isinstance(name, str) and (name in self._homes or name in self._classes):
            return
        known = self.names()
        if name not in known:
            broken = "".join(f"; {what}" for what in self._elsewhere or ())
            raise ConfigError(f"{self.what} {name!r}: does not exist; {nearest(str(name), known)}{broken}")

    def find(self, name: str) -> type[T]:
        """The class registered as `name`; ConfigError names the nearest if there is none."""
        self.check(name)
        if name not in self._classes:
            importlib.import_module(self._homes[name])
        return self._classes[name]

    def make(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """One of class `name` with `options` (strings are converted); ConfigError on unknown or wrong ones."""
        return build(self.find(name), options or {}, what=f"{self.what} {name}")


def _made_anew(other: type, cls: type) -> bool:
    """Whether `cls` is `other` once more, as dataclass(slots=True) makes every class twice."""
    fields = vars(cls).get("__dataclass_fields__")
    return fields is not None and fields is vars(other).get("__dataclass_fields__")


def build(cls: type[T], options: Mapping[str, Any], what: str) -> T:
    """The dataclass `cls` with `options`: strings are converted, a nested dataclass takes a mapping.

    `what` names the thing in messages ("method sinks"). ConfigError in one line on an unknown name, a
    missing one or a wrong value; what the class itself raises in `__post_init__` passes unchanged.
    """
    hints = get_type_hints(cls, include_extras=True)
    described: Any = cls
    fields = {f.name: f for f in dataclasses.fields(described) if f.init}
    for name in options:
        if name not in fields:
            known = nearest(str(name), fields) if fields else "it has no options: leave it out"
            raise ConfigError(f"{name}={options[name]}: {what} has no option {str(name)!r}; {known}")
    for name, field in fields.items():
        if name not in options and _required(field):
            raise ConfigError(f"{name}: missing; {what} needs it ({_type_name(hints[name])})")
    values = {name: _convert(hints[name], name, value, what) for name, value in options.items()}
    return cls(**values)


def parse_options(pairs: Iterable[str]) -> dict[str, Any]:
    """The mapping that `field=value` strings describe; `a.b=1` becomes {"a": {"b": "1"}}."""
    result: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        path = [part.strip() for part in name.split(".")]
        if not equals or not all(path):
            raise ConfigError(f"-o {pair!r}: expected field=value, for example -o window=1020")
        _put(result, path, value.strip(), pair)
    return result


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in the YAML file at `path` (an empty file is an empty mapping)."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror or error}; give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: not YAML ({one_line(error)}); correct the file") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        got = type(content).__name__
        raise ConfigError(f"config {path}: got {got}, expected lines such as `model: smollm2`")
    return content


def dump_yaml(value: Any) -> str:
    """YAML text of a dataclass or of plain data, keys in their order."""
    import yaml

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, name: str, value: Any, what: str) -> Any:
    """`value` as the type `hint`; a wrong one is a ConfigError that names the field."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, f"{what} {name}")
    if isinstance(value, bool) and hint in (int, float):
        raise ConfigError(f"{name}={value}: expected {_type_name(hint)}; give a number")
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        expected = error.errors(include_url=False)[0]["msg"]
        expected = f"{_type_name(hint)} ({one_line(expected)})"
        raise ConfigError(f"{name}={value}: expected {expected}; correct this option of {what}") from None


def _type_name(hint: Any) -> str:
    """What a field takes, in words."""
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}
    if hint in words:
        return words[hint]
    origin = get_origin(hint)
    inner = [part for part in get_args(hint) if part is not Ellipsis]
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join(map(_type_name, inner))
    if origin in (tuple, list, Sequence):
        many = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{many.get(inner[0], 'values')} with commas between" if inner else "a list"
    return getattr(hint, "__name__", None) or str(hint)


def _put(tree: dict[str, Any], path: list[str], value: str, pair: str) -> None:
    *parents, leaf = path
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"-o {pair!r}: {parent!r} was given a value before; give one or the other")
    if leaf in tree:
        raise ConfigError(f"-o {pair!r}: given twice; give each field once")
    tree[leaf] = value
