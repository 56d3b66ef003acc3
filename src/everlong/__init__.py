"""Endless context in bounded memory for open language models.

The public names are imported when they are first used, so that `import everlong` costs no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everlong.attach import attach as attach
    from everlong.attach.adapter import load as load
    from everlong.errors import EverlongError as EverlongError
    from everlong.memory.report import MemoryReport as MemoryReport
    from everlong.methods.blocks import Blocks as Blocks
    from everlong.methods.dense import Dense as Dense
    from everlong.methods.infini import Infini as Infini
    from everlong.methods.infinity_former import InfinityFormer as InfinityFormer
    from everlong.methods.recompute import Recompute as Recompute
    from everlong.methods.sinks import Sinks as Sinks
    from everlong.methods.transformer_xl import TransformerXL as TransformerXL
    from everlong.methods.window import Window as Window
    from everlong.session.session import Session as Session

__version__ = "0.1.0"

_HOME = {
    "Blocks": "everlong.methods.blocks",
    "Dense": "everlong.methods.dense",
    "EverlongError": "everlong.errors",
    "Infini": "everlong.methods.infini",
    "InfinityFormer": "everlong.methods.infinity_former",
    "MemoryReport": "everlong.memory.report",
    "Recompute": "everlong.methods.recompute",
    "Session": "everlong.session.session",
    "Sinks": "everlong.methods.sinks",
    "TransformerXL": "everlong.methods.transformer_xl",
    "Window": "everlong.methods.window",
    "attach": "everlong.attach",
    "load": "everlong.attach.adapter",
}

__all__ = [
    "Blocks",
    "Dense",
    "EverlongError",
    "Infini",
    "InfinityFormer",
    "MemoryReport",
    "Recompute",
    "Session",
    "Sinks",
    "TransformerXL",
    "Window",
    "__version__",
    "attach",
    "load",
]


def __getattr__(name: str) -> Any:
    """The public object `name`, imported from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'everlong' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)


class _Package(ModuleType):
    """This package, in which `attach` is the function and never the folder of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; the import system's own setting of a folder gives way to the public name."""
        shadowed = name in _HOME and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if shadowed else value)


sys.modules[__name__].__class__ = _Package
