"""What a package elsewhere adds: one file each, found by an entry point."""

from __future__ import annotations

import sys

import pytest

from everlong.errors import ConfigError
from everlong.evaluate import task as tasks
from everlong.methods import base as methods
from everlong.session.session import Session

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar
from everlong.methods.base import Method

@dataclass(frozen=True)
class Tail(Method):
    """The last `window` tokens, from a package elsewhere."""

    name: ClassVar[str] = "tail"
    streams: ClassVar[bool] = True
    window: int = 16

    def layout(self):
        return 0, self.window
'''
TASK = '''
from dataclasses import dataclass
from typing import ClassVar
from everlong.evaluate.tasks.passkey import Passkey

@dataclass(frozen=True)
class Doorkey(Passkey):
    """Pass keys of a package elsewhere."""

    name: ClassVar[str] = "doorkey"
'''
POINTS = """
[everlong.methods]
tail = elsewhere_method
broken = elsewhere_that_is_not_there
[everlong.tasks]
doorkey = elsewhere_task
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A package that is installed elsewhere; nothing of it stays."""
    (tmp_path / "elsewhere_method.py").write_text(METHOD)
    (tmp_path / "elsewhere_task.py").write_text(TASK)
    described = tmp_path / "elsewhere-0.1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 0.1\n")
    (described / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    registries = methods._REGISTRY, tasks._REGISTRY
    for registry in registries:
        monkeypatch.setattr(registry, "_elsewhere", None)
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    yield
    for name in ("elsewhere_method", "elsewhere_task"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("elsewhere")
def test_a_method_and_a_task_of_another_package_are_asked_for_by_name(tiny_llama):
    assert "tail" in methods.method_names()
    assert "doorkey" in tasks.task_names()
    method = methods.make_method("tail", {"window": "12"})
    with Session(tiny_llama(), method) as session:
        session.feed(list(range(40)))
        assert session.report().window_tokens == 12
        assert len(session.generate(max_new_tokens=3).token_ids) == 3


@pytest.mark.usefixtures("elsewhere")
def test_a_package_that_cannot_be_imported_is_named_where_a_name_is_missed():
    assert methods.make_method("sinks", {}).name == "sinks"
    with pytest.raises(
        ConfigError, match=r"'broken': does not exist; .*broken \(elsewhere_that_is_not_there\) cannot be"
    ):
        methods.make_method("broken", {})
