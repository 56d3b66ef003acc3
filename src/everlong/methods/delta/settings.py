"""delta: a window that moves by segments, and a matrix per head that knows what followed what.

Each token writes its value under a key that describes the tokens before it, corrected by what the matrix answers to
that key already (the delta rule), and reads with a query of the same kind; keys meet by the square of their product, so
that two things must match at once. DeltaNet (arXiv 2406.06484), the kernel of Based (arXiv 2402.18668) and short
convolutions as in both, put beside the window of any model; the start of the convolutions is our own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from everlong.errors import ConfigError
from everlong.methods.fields import at_least, check_choices, check_memory, reset_tokens
from everlong.methods.segmented import SegmentedMethod

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlong.methods.blocks.recall.index import MakeRecall
    from everlong.methods.delta.training import DeltaTraining
    from everlong.methods.recurrent.memory import RecurrentMemory
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store

HELP = {
    "segment": "tokens per segment: the window moves by it, and the memory goes on from its end",
    "local": "what is attended to exactly: the segment, or the one before too",
    "degree": "keys meet by their product (1) or by its square (2: two things must match at once; more numbers)",
    "look_back": "tokens that keys and queries are made of: their own and those before",
    "decay": "whether what was written fades, by a trained share a token (for text)",
    "projections": "own: trained queries, keys and values; none: those of the model, unrotated",
    "memory": "on; off: the window alone; zeroed: reads find zeros; reset:N: emptied every N tokens (controls)",
    "start": "how much an untrained memory says: spread of W_m (own), or s (none); 0: the model is as it was",
}


@dataclass(frozen=True)
class Delta(SegmentedMethod):
    """What followed what is in a memory of constant size, which tells apart whose it is."""

    name = "delta"
    trained = True
    segment: int = field(default=128, metadata={"help": HELP["segment"]})
    local: Literal["segment", "xl"] = field(default="xl", metadata={"help": HELP["local"]})
    degree: int = field(default=2, metadata={"help": HELP["degree"]})
    look_back: int = field(default=6, metadata={"help": HELP["look_back"]})
    decay: bool = field(default=False, metadata={"help": HELP["decay"]})
    projections: Literal["own", "none"] = field(default="own", metadata={"help": HELP["projections"]})
    memory: str = field(default="on", metadata={"help": HELP["memory"]})
    start: float = field(default=0.0, metadata={"help": HELP["start"]})

    def __post_init__(self) -> None:
        at_least(1, segment=self.segment, why=HELP["segment"])
        at_least(2, look_back=self.look_back, why=HELP["look_back"])
        if self.degree not in (1, 2):
            raise ConfigError(f"degree={self.degree!r}: expected 1 or 2 ({HELP['degree']})")
        if not math.isfinite(self.start):
            raise ConfigError(f"start={self.start}: must be finite ({HELP['start']})")
        check_choices(self)
        check_memory(self.memory, self.segment)

    def parameters(self, plan: ModelLayout, width: int) -> MemoryParameters:
        """Untrained: the induction start."""
        from everlong.methods.delta.maps import check_model, untrained
        from everlong.methods.recurrent.parameters import MemoryParameters

        check_model(plan, self.degree)
        own = self.projections == "own"
        return MemoryParameters(self.name, untrained(plan, width, self.look_back, own, self.decay, self.start))

    def stream_memory(
        self,
        plan: ModelLayout,
        parameters: MemoryParameters | None,
        make_store: Callable[[], Store],
        make_recall: MakeRecall,
    ) -> RecurrentMemory:
        """M of every layer, and the open segment's tokens."""
        import torch

        from everlong.methods.delta.maps import of_layer
        from everlong.methods.delta.memory import DeltaCore
        from everlong.methods.recurrent.memory import RecurrentMemory

        assert parameters is not None
        dtype = torch.promote_types(plan.dtype, torch.float32)
        given = {p.index: {name: x.detach() for name, x in parameters(p.index).items()} for p in plan.layers}
        maps = {p.index: of_layer(plan, p, given[p.index], dtype) for p in plan.layers}
        on = self.memory not in ("off", "zeroed")
        compresses = self.memory != "off"
        reset = reset_tokens(self.memory)
        return RecurrentMemory(DeltaCore(self.segment, self.back, self.degree, maps, reset, on, compresses), plan)

    def trainable(self, plan: ModelLayout) -> DeltaTraining:
        """All segments of a layer at once, but for the products with M (ops/delta.py)."""
        from everlong.methods.delta.training import DeltaTraining

        if self.memory != "on":
            raise ConfigError(f"memory={self.memory}: a control for reading; training needs memory=on")
        return DeltaTraining(self.segment, self.back, self.degree, plan)
