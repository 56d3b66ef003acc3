"""infini: Infini-attention. A window that moves by segments, and a matrix per head that holds all that left it.

Each head reads its matrix with its own query and mixes the answer with local attention by one trained gate; a segment
that leaves the window is folded into the matrix, whose size never changes (arXiv 2404.07143, equations 7 to 10).
There is no authors' code; from public ones this differs in what they got wrong: the memory is float32, one per layer
and kv head, read without rotary positions, and no gradient is cut between segments unless asked for. Beyond the
paper: `local="xl"` sees the segment before as well, and an empty memory leaves the local output as it is.
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
    from everlong.methods.infini.memory import InfiniTraining
    from everlong.methods.recurrent.memory import RecurrentMemory
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store

SEGMENT_HELP = "tokens per segment: the memory is written once for each"
MEMORY_HELP = (
    "on; off: the window alone; zeroed: reads find zeros, gated as usual; reset:N: emptied every N tokens (controls)"
)
BETA_HELP = "where untrained gates start: the memory's share is sigmoid(beta)"


@dataclass(frozen=True)
class Infini(SegmentedMethod):
    """Everything that left the window is in a compressive memory of constant size."""

    name = "infini"
    trained = True
    segment: int = field(default=256, metadata={"help": SEGMENT_HELP})
    update: Literal["linear", "delta"] = field(default="linear", metadata={"help": "equation 8 or 9 of the paper"})
    local: Literal["segment", "xl"] = field(
        default="xl", metadata={"help": "what is attended to exactly: the segment (the paper), or the one before too"}
    )
    beta: float = field(default=-3.0, metadata={"help": BETA_HELP})
    memory: str = field(default="on", metadata={"help": MEMORY_HELP})

    def __post_init__(self) -> None:
        at_least(1, segment=self.segment, why=SEGMENT_HELP)
        if not math.isfinite(self.beta):
            raise ConfigError(f"beta={self.beta}: must be finite ({BETA_HELP})")
        check_choices(self)
        check_memory(self.memory, self.segment)

    def parameters(self, plan: ModelLayout, width: int) -> MemoryParameters:
        """Untrained: a beta per layer and query head (equation 10)."""
        import torch

        from everlong.methods.recurrent.parameters import MemoryParameters

        return MemoryParameters(self.name, {"beta": torch.full((plan.depth, plan.heads), self.beta)})

    def stream_memory(
        self,
        plan: ModelLayout,
        parameters: MemoryParameters | None,
        make_store: Callable[[], Store],
        make_recall: MakeRecall,
    ) -> RecurrentMemory:
        """M and z of every layer, read with these gates."""
        import torch

        from everlong.methods.infini.memory import InfiniCore
        from everlong.methods.recurrent.memory import RecurrentMemory

        assert parameters is not None
        gates = {p.index: parameters(p.index)["beta"].detach().float().sigmoid() for p in plan.layers}
        dtype = torch.promote_types(plan.dtype, torch.float32)
        on = self.memory != "off"
        zeroed = self.memory == "zeroed"
        reset = reset_tokens(self.memory)
        core = InfiniCore(self.segment, self.back, self.update, gates.__getitem__, dtype, on, zeroed, reset)
        return RecurrentMemory(core, plan)

    def trainable(self, plan: ModelLayout) -> InfiniTraining:
        """All segments of a layer at once (ops/infini.py)."""
        from everlong.methods.infini.memory import InfiniTraining

        if self.memory != "on":
            raise ConfigError(f"memory={self.memory}: a control for reading; training needs memory=on")
        return InfiniTraining(self.segment, self.back, self.update)
