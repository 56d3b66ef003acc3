"""transformer_xl: a segment is read with the tokens just before it, through which no gradient flows.

What is further back is dropped; each layer passes on what the one below saw, so that context grows as layers x segment
(arXiv 1901.02860, section 3). `cache` reads a rotary checkpoint so: keys and values of the last `mem_len` tokens, at
their true distances. `faithful` is the paper's, for models trained from scratch with it: hidden states are remembered,
the model's rotation is undone, and scores are by content and by distance, equations under 3.3. Differences from the
authors' code: relative keys have as many heads as keys; rows, documents and chunks of any length; see ops/relative.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from everlong.errors import CapabilityError, ConfigError
from everlong.methods.base import Method
from everlong.methods.fields import at_least, check_choices

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlong.methods.blocks.recall.index import MakeRecall
    from everlong.methods.recurrent.memory import RecurrentMemory
    from everlong.methods.recurrent.parameters import MemoryParameters
    from everlong.methods.recurrent.training import TrainableCore
    from everlong.models.layout import ModelLayout
    from everlong.storage.base import Store

SEGMENT_HELP = "tokens per segment, which moves the window as a whole"
MEM_LEN_HELP = "tokens before its segment that a token sees (as many as segment if left out)"
CLAMP_HELP = "distances beyond so many tokens count as that (variant faithful)"
SPREAD = 0.02
"""Standard deviation of untrained parameters, as in the authors' code."""


@dataclass(frozen=True)
class TransformerXL(Method):
    """The last `mem_len` tokens before a segment are seen; nothing else is kept."""

    name = "transformer_xl"
    trained = True
    segment: int = field(default=256, metadata={"help": SEGMENT_HELP})
    mem_len: int | None = field(default=None, metadata={"help": MEM_LEN_HELP})
    variant: Literal["cache", "faithful"] = field(
        default="cache", metadata={"help": "cache (rotary checkpoints) or faithful (the paper's, trained from scratch)"}
    )
    same_length: bool = field(
        default=False, metadata={"help": "every token sees mem_len tokens, itself included: a sliding window"}
    )
    clamp_len: int | None = field(default=None, metadata={"help": CLAMP_HELP})
    memory: Literal["on", "off"] = field(
        default="on", metadata={"help": "off: a token sees its own segment alone (a control, which can be trained too)"}
    )

    def __post_init__(self) -> None:
        at_least(1, segment=self.segment, why=SEGMENT_HELP)
        if self.mem_len is not None:
            at_least(1, mem_len=self.mem_len, why=MEM_LEN_HELP)
        check_choices(self)
        if self.clamp_len is not None:
            at_least(1, clamp_len=self.clamp_len, why=CLAMP_HELP)
            if self.variant == "cache":
                raise ConfigError(
                    f"clamp_len={self.clamp_len}: has no effect with variant=cache, which keeps the model's rotation; "
                    "leave it out, or use variant=faithful"
                )

    @property
    def past(self) -> int:
        """Tokens of earlier segments that the first token of a segment sees."""
        if self.memory == "off":
            return 0
        return (self.mem_len or self.segment) - self.same_length

    @property
    def keys(self) -> int | None:
        """How many tokens a token sees at most, where that is less than all of its segment and the past."""
        return self.past + 1 if self.same_length and self.memory == "on" else None

    def layout(self) -> tuple[int, int]:
        """No sinks; the own segment and the past, or as many tokens as every one sees."""
        return 0, self.keys or self.segment + self.past

    def parameters(self, plan: ModelLayout, width: int) -> MemoryParameters:
        """None at all for the cache; u and w [1, H, D], and W_R of each layer, drawn from torch's generator."""
        import torch

        from everlong.methods.recurrent.parameters import MemoryParameters

        if self.variant == "cache":
            return MemoryParameters(self.name, {})
        G, D = plan.layers[0].key or (1, 1)
        shapes = {"u": (1, plan.heads, D), "w": (1, plan.heads, D), "W_R": (plan.depth, G * D, width)}
        return MemoryParameters(self.name, {name: SPREAD * torch.randn(shape) for name, shape in shapes.items()})

    def check_untrained(self) -> None:
        """The faithful form needs a model that was trained with it."""
        if self.variant == "faithful":
            raise CapabilityError(
                "transformer_xl: variant=faithful reads only a model that was trained with it, and this one was not; "
                "train it (everlong train), or use variant=cache"
            )

    def stream_memory(
        self,
        plan: ModelLayout,
        parameters: MemoryParameters | None,
        make_store: Callable[[], Store],
        make_recall: MakeRecall,
    ) -> RecurrentMemory:
        """The window alone, which moves by segments; by relative attention if faithful."""
        from everlong.methods.recurrent.memory import RecurrentMemory
        from everlong.methods.transformer_xl import memory as xl

        assert parameters is not None
        segment = 1 if self.keys else self.segment
        if self.variant == "cache":
            return RecurrentMemory(xl.WindowCore(segment, self.past), plan)
        length = self.keys or self.segment
        held = {p.index: {name: x.detach() for name, x in parameters(p.index).items()} for p in plan.layers}
        first = held[plan.layers[0].index]
        dim = first["u"].shape[-1]
        reach = length + self.past
        relative = {i: xl.relative_keys(x["W_R"], reach, dim, self.clamp_len) for i, x in held.items()}
        core = xl.RelativeCore(segment, self.past, length, self.keys, first["u"], first["w"], relative)
        return RecurrentMemory(core, plan)

    def trainable(self, plan: ModelLayout) -> TrainableCore:
        """All segments of a layer at once."""
        from everlong.methods.transformer_xl.memory import RelativeTraining, WindowTraining

        if self.variant == "cache":
            return WindowTraining(self.segment, self.past, self.keys)
        if any(p.key is None or p.key != plan.layers[0].key for p in plan.layers):
            raise CapabilityError(
                "transformer_xl: variant=faithful needs layers with keys of one shape; use a Llama config"
            )
        return RelativeTraining(self.segment, self.past, self.keys, self.clamp_len)
