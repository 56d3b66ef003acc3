"""The command line run in this process, over a tiny model in a folder."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from everlong.cli.main import run
from tests.models.tiny import save_folder

TEXT = "In the beginning there was the word, and then came the other words. " * 30


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.out)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """The folder of a random Llama, trained on 128 tokens, with a byte-level tokenizer and a chat template."""
    return str(save_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    """The folder where commands keep sessions unless they are told another."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("EVERLONG_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def run_once(tmp_path_factory) -> Callable[..., Ended]:
    """Runs the command line for a fixture that several tests share."""

    def call(*arguments: object) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("EVERLONG_HOME", str(tmp_path_factory.mktemp("home")))
            code = run([str(argument) for argument in arguments])
        return Ended(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def everlong(capsys, monkeypatch) -> Callable[..., Ended]:
    """Runs the command line and says how it ended; `stdin` is what is piped into it."""

    def call(*arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", ["everlong", *map(str, arguments)])
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture
def text_file(tmp_path) -> Path:
    """A text without a final newline."""
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path
