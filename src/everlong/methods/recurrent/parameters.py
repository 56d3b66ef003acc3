"""The trained parameters of a memory: a few tensors beside the model, the same names in every layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

NAME = "everlong_memory"
"""The name under which a model's decoder holds them (for PEFT: an entry of modules_to_save)."""


class MemoryParameters(nn.Module):
    """Parameters by name, each [layers, ...], or [1, ...] where all layers share one; there may be none at all.

    `method` is the name of the method they belong to. They are asked for by calling the module with a layer's index,
    so that a wrapper (PEFT, FSDP) sees the call.
    """

    def __init__(self, method: str, initial: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.method = method
        self.names = list(initial)
        for name, value in initial.items():
            self.register_parameter(name, nn.Parameter(value))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter by name."""
        return {name: tuple(getattr(self, name).shape) for name in self.names}

    def forward(self, layer: int) -> dict[str, Tensor]:
        """The parameters of a layer by name, each without its first dim."""
        found = {name: getattr(self, name) for name in self.names}
        return {name: x[layer if len(x) > 1 else 0] for name, x in found.items()}
