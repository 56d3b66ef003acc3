"""Whether kernels in Triton run on a device."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU, as tests ask with TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1" and has_triton()


def runs_kernels(device: torch.device) -> bool:
    """Whether the kernels run there: on CUDA, or anywhere in Triton's interpreter."""
    return (device.type == "cuda" and has_triton()) or interpreted()
