"""What is known of a model before anything is stored: how each layer rotates, what it sees, what it caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from everlong.models.ranks import Ranks
from everlong.ops.absorb import Absorbed
from everlong.ops.rotary import Rotation
from everlong.ops.spans import Ints


@dataclass(frozen=True)
class Pattern:
    """What a layer of the stock model may see: all, the last `sliding` tokens, or its own chunk of `chunked`."""

    sliding: int | None = None
    chunked: int | None = None


@dataclass(frozen=True)
class Temperature:
    """Queries at position p are scaled by 1 + `gain` * log(1 + floor((p + `lead`) / `floor`)).

    `indexed`: p is the index in the text (layers without positions of Llama 4); else the position that the model is
    given (Ministral 3).
    """

    floor: float
    gain: float
    lead: int
    indexed: bool

    def scale(self, position: Ints) -> NDArray[np.float64]:
        """The scale at each position."""
        return 1.0 + self.gain * np.log1p(np.floor((np.maximum(position, 0) + self.lead) / self.floor))


@dataclass(frozen=True)
class LayerPlan:
    """One attention layer.

    `rotation` is None where keys carry no position; `temperature` is set where the model scales queries by where they
    stand. `latent` layers (MLA) cache the rotated dims in the value slot and expand what the cache returns. `source`
    is the layer whose keys this one uses (itself, unless shared). `repeated` layers (JetMoe) give their attention more
    heads of keys than they cache.
    `key` and `value` are (heads, dim) of what is cached, None where nothing is.
    """

    index: int
    source: int
    pattern: Pattern
    rotation: Rotation | None = None
    temperature: Temperature | None = None
    latent: bool = False
    repeated: bool = False
    key: tuple[int, int] | None = None
    value: tuple[int, int] | None = None

    @property
    def numbers_per_token(self) -> int:
        """How many numbers a token costs in this layer."""
        return sum(heads * dim for heads, dim in (x for x in (self.key, self.value) if x is not None))

    @property
    def joint(self) -> bool:
        """Whether keys and values of all heads are made of one vector, which lies in both slots of the cache (MLA)."""
        one = self.key is not None and self.value is not None and self.key[0] == self.value[0] == 1
        return one and (self.latent or (self.repeated and self.rotation is None))

    @property
    def compared(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(heads, dim) of the keys that a memory compares and of the values that it keeps: the one vector, if joint."""
        key = self.key or (0, 0)
        value = self.value or (0, 0)
        return ((1, key[1] + value[1]), key) if self.joint else (key, value)


@dataclass(frozen=True)
class StatePlan:
    """A layer that keeps states of constant size of all that was read: linear attention, SSM, short convolution.

    `index` is the layer's; `count` how many states of each kind it may keep, `nbytes` what those of one row take.
    Such a layer may have attention beside them, which has a LayerPlan of its own.
    """

    index: int
    count: int
    nbytes: int


@dataclass(frozen=True)
class ModelLayout:
    """The layers that attend, those that keep a state, and the lengths within which positions must stay.

    `depth` counts all layers of the decoder, those that do neither included. `steps_singly`: its states are carried
    from one token to the next only, so that they are read one by one.
    `trained_length` is how many positions the model was trained on. `hard_length` is set where the model computes
    something else (or crashes) past it: dynamic-NTK and longrope frequencies, tables of angles. `heads` counts the
    query heads of a layer. `ranks` are set where each process has other heads; heads are then this process's own.
    """

    layers: tuple[LayerPlan, ...]
    trained_length: int
    hard_length: int | None
    dtype: torch.dtype
    alibi: bool = False
    heads: int = 1
    ranks: Ranks | None = None
    depth: int = 0
    states: tuple[StatePlan, ...] = ()
    steps_singly: bool = False
    axes_together: bool = False
    """Whether it takes positions on three axes, and the same added to all of them turns keys and queries as in text."""
    expansions: Callable[[ModelLayout], dict[int, Absorbed]] | None = field(default=None, compare=False)
    """Finds how joint layers make keys and values of what they cache."""

    @cached_property
    def by_index(self) -> dict[int, LayerPlan]:
        """The layers that attend, by index in the decoder."""
        return {layer.index: layer for layer in self.layers}

    @property
    def state_bytes(self) -> int:
        """Bytes of all states of one row, however long the stream."""
        return sum(state.nbytes for state in self.states)

    @cached_property
    def frame_length(self) -> int:
        """How many positions a frame may use."""
        return self.trained_length if self.hard_length is None else min(self.hard_length, self.trained_length)

    def bytes_per_token(self) -> int:
        """Bytes that one kept token costs over all layers."""
        return sum(layer.numbers_per_token for layer in self.layers) * self.dtype.itemsize
