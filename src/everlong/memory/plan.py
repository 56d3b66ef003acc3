"""What is known of a model before anything is stored: how each layer rotates, what it sees, what it caches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from everlong.ops.rotary import Rotation


@dataclass(frozen=True)
class Pattern:
    """What a layer of the stock model may see: all, the last `sliding` tokens, or its own chunk of `chunked`."""

    sliding: int | None = None
    chunked: int | None = None


@dataclass(frozen=True)
class Temperature:
    """Queries at position p are scaled by 1 + `gain` * log(1 + floor((p + 1) / `floor`)) (Llama 4, NoPE layers)."""

    floor: float
    gain: float


@dataclass(frozen=True)
class LayerPlan:
    """One attention layer.

    `rotation` is None where keys carry no position; `temperature` is set where the model scales queries by their
    index. `latent` layers (MLA) cache the rotated dims in the value slot and expand what the cache returns. `source`
    is the layer whose keys this one uses (itself, unless shared).
    `key` and `value` are (heads, dim) of what is cached, None where nothing is.
    """

    index: int
    source: int
    pattern: Pattern
    rotation: Rotation | None = None
    temperature: Temperature | None = None
    latent: bool = False
    key: tuple[int, int] | None = None
    value: tuple[int, int] | None = None

    @property
    def numbers_per_token(self) -> int:
        """How many numbers a token costs in this layer."""
        return sum(heads * dim for heads, dim in (x for x in (self.key, self.value) if x is not None))


@dataclass(frozen=True)
class RotaryPlan:
    """All layers, and the lengths within which positions must stay.

    `trained_length` is how many positions the model was trained on. `hard_length` is set where the model computes
    something else (or crashes) past it: dynamic-NTK and longrope frequencies, tables of angles. `heads` counts the
    query heads of a layer.
    """

    layers: tuple[LayerPlan, ...]
    trained_length: int
    hard_length: int | None
    dtype: torch.dtype
    alibi: bool = False
    heads: int = 1

    @property
    def frame_length(self) -> int:
        """How many positions a frame may use."""
        return self.trained_length if self.hard_length is None else min(self.hard_length, self.trained_length)

    def bytes_per_token(self) -> int:
        """Bytes that one kept token costs over all layers."""
        return sum(layer.numbers_per_token for layer in self.layers) * self.dtype.itemsize
