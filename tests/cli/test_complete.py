"""What a shell completes after `everlong --install-completion`: verbs, sessions, methods, models; at no cost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import everlong as package
from everlong.cli import complete
from everlong.library.library import Library
from everlong.methods.base import method_names
from everlong.models.load import DEFAULT, DTYPES
from everlong.storage.budget import WHEN_FULL


@pytest.fixture
def completed(everlong, monkeypatch):
    """What bash is told about the last of the words."""

    def call(*words):
        with monkeypatch.context() as patch:
            patch.setenv("_EVERLONG_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", " ".join(["everlong", *words]))
            patch.setenv("COMP_CWORD", str(len(words)))
            done = everlong()
        assert done.code == 0
        assert done.err == ""
        return done.out.split("\n")[:-1] if done.out.strip() else []

    return call


@pytest.fixture
def kept(home, tmp_path):
    for folder, names in ((home, ("book", "bees", "my notes")), (tmp_path / "other", ("else",))):
        for name in names:
            Library(folder).create(name, "m", {}, {"name": "sinks", "fields": {}})


def test_names_of_sessions(completed, kept, tmp_path):
    for verb in (["ask", "What?"], ["read", "a.txt"], ["chat"], ["search", "a"], ["pin"], ["forget"]):
        assert completed(*verb, "--session", "b") == ["bees", "book"]
    assert completed("ask", "What?", "--session", "") == ["bees", "book", "'my notes'"]
    assert completed("ask", "--store", str(tmp_path / "other"), "--session", "") == ["else"]
    assert completed("ask", "--store", str(tmp_path / "none"), "--session", "") == []
    assert completed("sessions", "show", "be") == ["bees"]
    assert completed("sessions", "export", "bo") == ["book"]


def test_a_damaged_store_completes_nothing(completed, home):
    (home / "everlong.db").write_bytes(b"no database at all" * 99)
    assert completed("ask", "What?", "--session", "b") == []


def test_verbs_methods_and_models(completed, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--some--model").mkdir()
    assert completed("mod") == ["models"]
    assert completed("read", "a.txt", "--method", "in") == ["infini", "infinity_former"]
    assert completed("ask", "a", "--model", "") == [
        "smollm2",
        "everlong/delta-names",
        "everlong/infini-passkey",
        "some/model",
    ]
    assert completed("ask", "a", "-m", "./mo") == []
    assert completed("ask", "a", "--dtype", "f") == ["float32", "float16"]


def test_what_is_completed_is_what_there_is():
    assert set(complete.METHODS) == set(method_names())
    assert ("auto", *DTYPES) == complete.DTYPES
    assert set(complete.WHEN_FULL) == set(WHEN_FULL)
    assert complete.DEFAULT_MODEL == DEFAULT


def test_no_torch_is_imported_for_it(home):
    Library(home).create("book", "m", {}, {"name": "sinks", "fields": {}})
    words = {"_EVERLONG_COMPLETE": "complete_bash", "COMP_WORDS": "everlong ask --session ", "COMP_CWORD": "3"}
    code = "import sys; from everlong.cli.main import run; run([]); print('torch' in sys.modules)"
    environment = os.environ | words | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.split("\n")[:2] == ["book", "False"]
