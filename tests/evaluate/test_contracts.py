"""What every task keeps to, whoever adds it: named, sourced, described, versioned, usable with its defaults."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from everlong.evaluate.task import make_task, task_class, task_names


@pytest.mark.parametrize("name", task_names())
def test_a_task_says_what_it_is(name):
    cls = task_class(name)
    assert cls.__module__.startswith(f"everlong.evaluate.tasks.{name}")
    for fact in ("source", "licence", "metric"):
        assert getattr(cls, fact).strip(), f"{name} has no {fact}"
    assert cls.needs in ("nothing", "data")
    assert isinstance(cls.version, int)
    assert cls.version >= 1
    assert (sys.modules[cls.__module__].__doc__ or "").startswith(f"{name}: ")
    assert (cls.__doc__ or "").strip().split("\n")[0].endswith(".")


@pytest.mark.parametrize("name", task_names())
def test_every_option_has_a_default_and_a_help(name):
    cls = task_class(name)
    for field in dataclasses.fields(cls):
        assert field.metadata["help"], f"{name}.{field.name} has no help"
    assert make_task(name) == cls()
    assert make_task(name, make_task(name).as_dict()) == cls()
