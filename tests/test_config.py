"""Options and YAML become dataclasses; every mistake is one line that says what to do."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from everlong.config import Registry, build, dump_yaml, load_yaml, parse_options
from everlong.errors import ConfigError, EverlongError, one_line
from everlong.evaluate import task as benchmark
from everlong.methods import Method, Sinks, base, make_method, method_class
from everlong.train.data import task as training


@dataclass(frozen=True)
class Store:
    bytes: int = 10
    policy: str = "refuse"


@dataclass(frozen=True)
class Recipe:
    window: int
    rate: float = 0.5
    exact: bool = False
    top: int | None = None
    store: Store = field(default_factory=Store)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"window={self.window}: must be at least 1 (tokens kept exactly)")


@dataclass(frozen=True)
class Empty:
    pass


def test_strings_become_the_declared_types() -> None:
    built = build(Recipe, {"window": "7", "rate": "1e-3", "exact": "true", "top": "3"}, "recipe")
    assert built == Recipe(window=7, rate=1e-3, exact=True, top=3)


def test_nested_mappings_become_nested_dataclasses() -> None:
    options = parse_options(["window=7", "store.bytes=20", "store.policy=drop oldest"])
    assert build(Recipe, options, "recipe") == Recipe(window=7, store=Store(20, "drop oldest"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"windw": 3},
            r"^windw=3: recipe has no option 'windw'; did you mean 'window'\? known: exact, rate, .*",
        ),
        ({"window": "many"}, r"^window=many: expected a whole number \(.*\); correct this option of recipe$"),
        ({"window": 1.5}, r"^window=1\.5: expected a whole number "),
        ({"window": True}, r"^window=True: expected a whole number; give a number$"),
        (
            {"window": 1, "store": {"byte": 1}},
            r"^byte=1: recipe store has no option 'byte'; did you mean 'bytes'",
        ),
        ({"window": 1, "store": 3}, r"^store=3: expected Store "),
        ({"rate": 1}, r"^window: missing; recipe needs it \(a whole number\)$"),
        ({"window": "0"}, r"^window=0: must be at least 1 \(tokens kept exactly\)$"),
    ],
)
def test_each_mistake_is_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build(Recipe, options, "recipe")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, EverlongError)


def test_a_class_without_fields_says_so() -> None:
    assert build(Empty, {}, "method dense") == Empty()
    with pytest.raises(ConfigError, match="method dense has no option 'window'; it has no options: leave it out"):
        build(Empty, {"window": 3}, "method dense")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["window"], "expected field=value"),
        (["=3"], "expected field=value"),
        (["a.=3"], "expected field=value"),
        (["a=1", "a=2"], "given twice"),
        (["a=1", "a.b=2"], "'a' was given a value before"),
    ],
)
def test_malformed_options_are_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(pairs)


def test_option_values_may_hold_equals_signs_and_be_empty() -> None:
    assert parse_options(["a = b=c ", "d="]) == {"a": "b=c", "d": ""}


def test_yaml_goes_out_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_yaml(Recipe(window=9, top=2)), encoding="utf-8")
    assert build(Recipe, load_yaml(path), "recipe") == Recipe(window=9, top=2)
    assert path.read_text(encoding="utf-8").startswith("window: 9\nrate: 0.5\n")


def test_an_empty_yaml_file_is_an_empty_mapping(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n", encoding="utf-8")
    assert load_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "got list, expected lines such as"),
        (b"1: a\n", "got dict, expected lines such as"),
        (b"a: [1\n", "not YAML"),
        (b"a: \xff\n", "not YAML"),
        (b"a: \x00\n", "not YAML"),
    ],
)
def test_wrong_yaml_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        load_yaml(path)
    assert "\n" not in str(raised.value)


def test_a_missing_yaml_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "absent.yaml")


def test_one_line_cuts_and_joins() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 300, limit=10) == "xxxxxxx..."


REGISTRIES = [
    (base._REGISTRY, Method),
    (benchmark._REGISTRY, benchmark.Task),
    (training._REGISTRY, training.TrainingTask),
]


@pytest.mark.parametrize(("registry", "root"), REGISTRIES, ids=["method", "task", "training task"])
def test_only_a_class_that_names_itself_is_registered(registry: Registry[Any], root: type) -> None:
    before = {name: registry.find(name) for name in registry.names()}
    some = next(iter(before))
    nameless = make_dataclass("Nameless", [], bases=(before[some],), frozen=True)
    assert {name: registry.find(name) for name in registry.names()} == before
    with pytest.raises(ConfigError, match=rf"{some!r}: is everlong\..* already; give .*Taken a name of its own"):
        type("Taken", (root,), {"name": some})
    with pytest.raises(ConfigError, match="Nameless: has no name of its own"):
        registry.name_of(object.__new__(nameless))
    assert {name: registry.find(name) for name in registry.names()} == before


def test_a_named_subclass_of_a_method_stands_beside_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base._REGISTRY, "_classes", dict(base._REGISTRY._classes))

    @dataclass(frozen=True, slots=True)
    class Deeper(Sinks):
        name = "deeper"

    assert method_class("deeper") is Deeper
    assert method_class("sinks") is Sinks
    assert make_method(**_renamed(Deeper(sinks=2, window=9).recipe())) == Deeper(sinks=2, window=9)

    class Plainer(Deeper):
        pass

    assert method_class("deeper") is Deeper
    with pytest.raises(ConfigError, match="Plainer: has no name of its own"):
        Plainer(sinks=2, window=9).recipe()


def _renamed(recipe: dict[str, Any]) -> dict[str, Any]:
    return {"name": recipe["name"], "options": recipe["fields"]}


@dataclass(frozen=True)
class Lists:
    lengths: Annotated[tuple[int, ...], "tokens"] = ()
    shares: tuple[float, ...] = ()
    ways: Annotated[tuple[int | Literal["auto"], ...], "ways"] = ()
    top: int | None = None
    policy: Literal["refuse", "oldest"] = "refuse"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lengths", "whole numbers with commas between"),
        ("shares", "numbers with commas between"),
        ("ways", "values with commas between"),
        ("top", "a whole number or nothing"),
        ("policy", "one of refuse, oldest"),
    ],
)
def test_types_are_said_in_words(name, expected) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Lists, {name: "abc"}, "task")
    assert f"{name}=abc: expected {expected} (" in str(caught.value)
