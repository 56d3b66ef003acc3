"""The methods, one file each; importing this package registers them."""

from everlong.methods.base import Method, make_method, method_class, method_names
from everlong.methods.blocks.settings import Blocks
from everlong.methods.delta.settings import Delta
from everlong.methods.dense import Dense
from everlong.methods.infini.settings import Infini
from everlong.methods.infinity_former.settings import InfinityFormer
from everlong.methods.recompute import Recompute
from everlong.methods.sinks import Sinks
from everlong.methods.transformer_xl.settings import TransformerXL
from everlong.methods.window import Window

__all__ = [
    "Blocks",
    "Delta",
    "Dense",
    "Infini",
    "InfinityFormer",
    "Method",
    "Recompute",
    "Sinks",
    "TransformerXL",
    "Window",
    "make_method",
    "method_class",
    "method_names",
]
