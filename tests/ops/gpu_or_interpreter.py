"""Where tests of Triton's kernels run: on the GPU if there is one, else by Triton's interpreter, else not at all.

By the interpreter (slow, on a CPU): `pip install triton "numpy<2.4"`, then TRITON_INTERPRET=1 before pytest begins.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from everlong.ops import gpu
from everlong.ops.gpu.available import has_triton, interpreted


@pytest.fixture
def device(monkeypatch):
    """A device on which the kernels run."""
    if not (torch.cuda.is_available() and has_triton()) and not interpreted():
        pytest.skip("needs a GPU and Triton, or Triton's interpreter (TRITON_INTERPRET=1)")
    # Loaded here, not by the import hook that checks shapes: Triton reads the source of its kernels.
    for file in Path(gpu.__file__).parent.glob("*_kernels.py"):
        name = f"{gpu.__name__}.{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(gpu, file.stem, module, raising=False)
        spec.loader.exec_module(module)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
