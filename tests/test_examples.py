"""The examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import everlong

SOURCE = Path(everlong.__file__).parent
FILES = sorted(
    str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("file", FILES)
def test_examples_run(file: str):
    module = importlib.import_module(".".join(["everlong", *Path(file).with_suffix("").parts]))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
