"""Endless context in bounded memory for open language models.

The public names are imported when they are first used, so that `import everlong` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from everlong.version import __version__ as __version__

if TYPE_CHECKING:
    from everlong.cache.report import MemoryReport as MemoryReport
    from everlong.errors import EverlongError as EverlongError
    from everlong.hooks.adapter import load as load
    from everlong.hooks.attach import attach as attach
    from everlong.methods.blocks.settings import Blocks as Blocks
    from everlong.methods.delta.settings import Delta as Delta
    from everlong.methods.dense import Dense as Dense
    from everlong.methods.infini.settings import Infini as Infini
    from everlong.methods.infinity_former.settings import InfinityFormer as InfinityFormer
    from everlong.methods.recompute import Recompute as Recompute
    from everlong.methods.sinks import Sinks as Sinks
    from everlong.methods.transformer_xl.settings import TransformerXL as TransformerXL
    from everlong.methods.window import Window as Window
    from everlong.session.session import Session as Session

_HOME = {
    "Blocks": "everlong.methods.blocks.settings",
    "Delta": "everlong.methods.delta.settings",
    "Dense": "everlong.methods.dense",
    "EverlongError": "everlong.errors",
    "Infini": "everlong.methods.infini.settings",
    "InfinityFormer": "everlong.methods.infinity_former.settings",
    "MemoryReport": "everlong.cache.report",
    "Recompute": "everlong.methods.recompute",
    "Session": "everlong.session.session",
    "Sinks": "everlong.methods.sinks",
    "TransformerXL": "everlong.methods.transformer_xl.settings",
    "Window": "everlong.methods.window",
    "attach": "everlong.hooks.attach",
    "load": "everlong.hooks.adapter",
}

__all__ = [
    "Blocks",
    "Delta",
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
