"""The package as a whole: its names, what importing it costs, its version."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest
import torch

import everlong


def fresh(code: str) -> str:
    """What `code` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_light():
    loaded = fresh(
        "import everlong, sys; print([m for m in ('torch', 'transformers', 'pydantic') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_every_public_name_is_there():
    for name in everlong.__all__:
        assert getattr(everlong, name) is not None
    assert dir(everlong) == sorted(everlong.__all__)


def test_attach_is_the_function_even_after_its_folder_was_imported():
    code = "import everlong.attach; from everlong import attach; print(attach.__name__, everlong.attach is attach)"
    assert fresh(code) == "attach True"


def test_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match=r"no attribute 'Sink'; it has .*Sinks"):
        everlong.Sink  # noqa: B018


def test_version_is_the_installed_one():
    assert importlib.metadata.version("everlong") == everlong.__version__


def test_fresh_memory_is_nan():
    assert torch.empty(3).isnan().all()
