"""The methods that engines are tested with, in small."""

from __future__ import annotations

from everlong import Blocks, Delta, Dense, Infini, InfinityFormer, Sinks, TransformerXL, Window

SMALL = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "repr_topk": 4, "exec_chunk": 32, "pool": 8}
METHODS = [
    Dense(),
    Window(window=20),
    Sinks(sinks=3, window=17),
    Blocks(**SMALL, recall="layer"),
    Blocks(**SMALL, recall="layer", cut="surprise", surprise_window=16),
    Infini(segment=16),
    Delta(segment=16),
    TransformerXL(segment=16),
    InfinityFormer(segment=16, basis=8, points=32),
]
