"""Building the extension: left out where it is not wanted or cannot be, taken only if built from these sources."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from everlong.ops import native

SCRIPT = Path(__file__).resolve().parents[2] / "native" / "build.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("build_native", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh(monkeypatch):
    """The extension is looked for anew, here and after the test."""
    native.extension.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    native.extension.cache_clear()


@pytest.mark.parametrize("error", [OSError("no cc"), SystemExit("no cc")])
def test_without_a_compiler_it_is_left_out(script, monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(script, "build", fail)
    assert script.built() is None
    assert "everlong: no C extension" in capsys.readouterr().err


def test_it_is_not_built_where_it_is_turned_off(script, monkeypatch):
    monkeypatch.setattr(script, "build", lambda: pytest.fail("built"))
    monkeypatch.setenv("EVERLONG_NATIVE", "0")
    assert script.built() is None


def test_one_that_is_not_there_is_done_without(fresh):
    fresh.setattr(native.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    assert native.extension() is None
    assert native.description() == "torch (no C extension: install a compiler, then everlong again)"


def test_one_of_other_sources_is_left_out_and_told(fresh, caplog):
    caplog.set_level(logging.WARNING)
    fresh.setattr(native.importlib, "import_module", lambda name: SimpleNamespace(INTERFACE=0))
    assert native.extension() is None
    assert "built from other sources" in caplog.text


def test_turned_off_is_told(fresh):
    fresh.setenv(native.SWITCH, "0")
    assert native.description() == "torch (C extension turned off)"
