"""infinity_former: what left the window is a continuous signal of constant size, read by Gaussians over time.

The hidden states of a segment that leaves are fitted by N Gaussians over [0, 1], after the old signal was squeezed into
[0, tau]; each query reads with a Gaussian density, and a trained projection adds what it read to local attention
(arXiv 2109.00301, sections 3.1 to 3.3). Sticky memories squeeze what was attended to less than the rest. Differences
from the authors' code: the memory is never reset, W_O begins at 0 (an untrained memory leaves the model as it was),
W_O stands before the model's own output projection, and see ops/infinity.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from everlong.errors import ConfigError
from everlong.methods.base import Method
from everlong.methods.fields import at_least, check_choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlong.methods.blocks.recall.index import MakeRecall
    from everlong.methods.infinity_former.memory import InfinityTraining
    from everlong.methods.infinity_former.signal import Signal
    from everlong.methods.recurrent.memory import RecurrentMemory
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store

SEGMENT_HELP = "tokens per segment: the signal is fitted anew for each"
BASIS_HELP = "Gaussians that make up the signal, an even number"
POINTS_HELP = "points at which the old signal is read when it is squeezed"


@dataclass(frozen=True)
class InfinityFormer(Method):
    """Everything that left the window is in a signal that blurs with age."""

    name = "infinity_former"
    trained = True
    segment: int = field(default=256, metadata={"help": SEGMENT_HELP})
    basis: int = field(default=128, metadata={"help": BASIS_HELP})
    points: int = field(default=512, metadata={"help": POINTS_HELP})
    tau: float = field(default=0.5, metadata={"help": "share of time that the old signal keeps in an update"})
    sticky: bool = field(
        default=True, metadata={"help": "whether these points crowd where the last segment attended to (else: even)"}
    )
    ridge: float = field(default=0.5, metadata={"help": "penalty of the fit: larger is smoother"})
    kl: float = field(default=1e-6, metadata={"help": "weight of the regulariser of the densities' width in training"})
    local: Literal["segment", "xl"] = field(
        default="segment", metadata={"help": "what is attended to exactly: the segment, or the one before too"}
    )
    memory: Literal["on", "off"] = field(default="on", metadata={"help": "off: the window alone (a control)"})

    def __post_init__(self) -> None:
        at_least(1, segment=self.segment, why=SEGMENT_HELP)
        at_least(2, basis=self.basis, why=BASIS_HELP)
        at_least(1, points=self.points, why=POINTS_HELP)
        if self.basis % 2:
            raise ConfigError(f"basis={self.basis}: must be even ({BASIS_HELP})")
        if not 0 < self.tau < 1:
            raise ConfigError(f"tau={self.tau}: must lie between 0 and 1 (the share of time of the old signal)")
        if not self.ridge > 0:
            raise ConfigError(f"ridge={self.ridge}: must be above 0 (the penalty of the fit)")
        if not self.kl >= 0:
            raise ConfigError(f"kl={self.kl}: must be at least 0 (a weight; 0: no regulariser)")
        check_choices(self)

    @property
    def back(self) -> int:
        """Tokens before its own segment that a token attends to."""
        return self.segment if self.local == "xl" else 0

    def layout(self) -> tuple[int, int]:
        """No sinks; at most the own segment and the one before."""
        return 0, self.segment + self.back

    def parameters(self, plan: ModelLayout, width: int) -> MemoryParameters:
        """Untrained: projections and w drawn from torch's generator by fan-in, W_O and the convolution's bias 0."""
        import torch

        from everlong.methods.recurrent.parameters import MemoryParameters

        layers, (G, D), (_, E) = plan.depth, plan.layers[0].key or (0, 0), plan.layers[0].value or (0, 0)
        found = {
            "W_K": torch.randn(layers, G * D, width) / width**0.5,
            "W_V": torch.randn(layers, G * E, width) / width**0.5,
            "W_O": torch.zeros(layers, plan.heads * E, plan.heads * E),
            "w_mu": torch.randn(layers, self.basis) / self.basis**0.5,
            "w_var": torch.randn(layers, self.basis) / self.basis**0.5,
            "conv_weight": torch.randn(layers, width, width, 3) / (3 * width) ** 0.5,
            "conv_bias": torch.zeros(layers, width),
        }
        return MemoryParameters(self.name, found)

    def stream_memory(
        self,
        plan: ModelLayout,
        parameters: MemoryParameters | None,
        make_store: Callable[[], Store],
        make_recall: MakeRecall,
    ) -> RecurrentMemory:
        """B of every layer, read with these parameters."""
        from everlong.methods.infinity_former.memory import InfinityCore
        from everlong.methods.recurrent.memory import RecurrentMemory

        assert parameters is not None
        given = {p.index: {name: x.detach() for name, x in parameters(p.index).items()} for p in plan.layers}
        on = self.memory == "on"
        return RecurrentMemory(InfinityCore(self.segment, self.back, self._signal(), given, plan.dtype, on), plan)

    def trainable(self, plan: ModelLayout) -> InfinityTraining:
        """Local attention at once, the signal segment by segment."""
        from everlong.methods.infinity_former.memory import InfinityTraining

        if self.memory != "on":
            raise ConfigError(f"memory={self.memory}: a control for reading; training needs memory=on")
        return InfinityTraining(self.segment, self.back, self._signal(), self.kl)

    def _signal(self) -> Signal:
        from everlong.methods.infinity_former.signal import Signal

        return Signal.of(self.segment, self.basis, self.points, self.tau, self.ridge, self.sticky)
