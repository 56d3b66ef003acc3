"""The keys and values of one layer, in two preallocated tensors.

Letters: B batch, G kv heads, T new tokens, M columns in use after the step, D head dim (keys and values may differ).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from everlong.cache.window import WindowLayout

GROWTH = 1.5
"""An arena without a fixed capacity (dense) grows by this factor, so that growing costs O(1) per token."""


class LayerKV(CacheLayerMixin):
    """Columns [first R tokens | newest tokens] of one layer; see `WindowLayout` for which token lies where.

    A step writes behind the committed columns and becomes valid only with `commit`, so a forward that fails half
    way leaves the stream as it was.
    """

    is_sliding = False
    is_croppable = True

    def __init__(self, lane: WindowLayout) -> None:
        super().__init__()
        self.lane = lane
        self.shift = 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._overflow: tuple[Tensor, Tensor] | None = None
        self.view: tuple[Tensor, Tensor] | None = None

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Keys and values, after the first write."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(x.untyped_storage().nbytes() for x in (self.keys, self.values) if x is not None)

    def write(
        self, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T E"], seen: int
    ) -> tuple[Float[Tensor, "B G M D"], Float[Tensor, "B G M E"]]:
        """All columns up to and including the new tokens; a view, unless the step is longer than the room."""
        tokens = k.shape[2]
        if k.requires_grad or v.requires_grad:
            k = k.detach()
            v = v.detach()
        if self.keys is None:
            capacity = self.lane.capacity or self._grown(0, tokens)
            self.keys, self.values = (_empty(x, capacity) for x in (k, v))
            self.is_initialized = True
        if self.shift != self.lane.shift or seen - self.shift + tokens > self.keys.shape[2]:
            self._make_room(seen, tokens)
        keys, values = self.pair
        at = seen - self.shift
        end = at + tokens
        if end <= keys.shape[2]:
            keys[:, :, at:end] = k
            values[:, :, at:end] = v
            self.view = keys.narrow(2, 0, end), values.narrow(2, 0, end)
        else:
            self.view = torch.cat((keys[:, :, :at], k), 2), torch.cat((values[:, :, :at], v), 2)
            self._overflow = self.view
        return self.view

    def has_room(self, seen: int, dtype: torch.dtype) -> bool:
        """Whether one more token of this type finds a column of its own, which is made if need be."""
        if self.keys is None or self.keys.dtype != dtype:
            return False
        if self.shift != self.lane.shift or seen - self.shift >= self.keys.shape[2]:
            self._make_room(seen, 1)
        return seen - self.shift < self.keys.shape[2]

    def _make_room(self, seen: int, tokens: int) -> None:
        if self.shift != self.lane.shift:
            self._slide(seen)
        held = self.pair[0].shape[2]
        at = seen - self.shift
        if at + tokens <= held:
            return
        capacity = self.lane.capacity
        if capacity is None or held < capacity:
            columns = capacity or self._grown(held, at + tokens)
            self.keys, self.values = (_resized(x, columns, at) for x in self.pair)

    def _grown(self, columns: int, needed: int) -> int:
        return max(needed + self.lane.room, int(columns * GROWTH))

    def _slide(self, seen: int) -> None:
        """Move the newest tokens down to where the lane wants them, in blocks that do not overlap themselves."""
        fixed = self.lane.fixed
        by = self.lane.shift - self.shift
        start = fixed + by
        end = seen - self.shift
        for x in self.pair:
            for a in range(start, end, by):
                b = min(a + by, end)
                x[:, :, a - by : b - by].copy_(x[:, :, a:b])
        self.shift = self.lane.shift

    def commit(self, seen: int) -> None:
        """Make the step's tokens part of the stream; `seen` counts them."""
        if self._overflow is not None:
            lane = self.lane
            oldest = lane.oldest(seen)
            shift = oldest - lane.fixed if oldest > lane.fixed else 0
            for x, new in zip(self.pair, self._overflow, strict=True):
                x[:, :, : lane.fixed].copy_(new[:, :, : lane.fixed])
                start = max(oldest, lane.fixed)
                tail = new[:, :, start - self.shift : seen - self.shift]
                x[:, :, start - shift : start - shift + tail.shape[2]].copy_(tail)
            self.shift = lane.shift = shift
            lane.reach = 0
        self._overflow = self.view = None

    def clear(self) -> None:
        """Hold nothing, of no number of rows."""
        self.shift = 0
        self.keys = None
        self.values = None
        self.abandon()

    def abandon(self) -> None:
        """Forget the step that was not committed."""
        self._overflow = self.view = None

    def live(self, seen: int) -> list[tuple[int, int]]:
        """The ranges of columns that later tokens may still need."""
        oldest = self.lane.oldest(seen)
        fixed = min(self.lane.fixed, seen)
        start = max(oldest, fixed) - self.shift
        return [r for r in ((0, fixed), (start, seen - self.shift)) if r[0] < r[1]]

    def select_rows(self, rows: Int[Tensor, " B"], seen: int) -> None:
        """Keep, repeat or reorder batch rows."""
        if self.keys is None:
            return
        end = seen - self.shift
        rows = rows.to(self.keys.device)
        if len(rows) == self.keys.shape[0]:
            for x in self.pair:
                x[:, :, :end] = x[:, :, :end].index_select(0, rows)
        else:
            self.keys, self.values = (_resized(x, x.shape[2], end, rows) for x in self.pair)

    def copy_to(self, other: LayerKV, seen: int) -> None:
        """Give `other` (a fresh arena of an equal lane) the same live columns in the same places."""
        other.shift = self.shift
        if self.keys is None:
            return
        other.keys, other.values = (_empty(x, x.shape[2]) for x in self.pair)
        other.is_initialized = True
        for mine, theirs in zip(self.pair, other.pair, strict=True):
            for a, b in self.live(seen):
                theirs[:, :, a:b] = mine[:, :, a:b]

    def restore(self, k: Tensor, v: Tensor, columns: int, seen: int) -> None:
        """Take the live columns back to where they lay in an arena of `columns`."""
        self.keys, self.values = (_empty(x, columns) for x in (k, v))
        self.is_initialized = True
        at = 0
        for a, b in self.live(seen):
            for x, saved in zip(self.pair, (k, v), strict=True):
                x[:, :, a:b] = saved[:, :, at : at + b - a]
            at += b - a

    # What transformers asks of a layer.

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: arenas are made at the first write."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Refused: a layer is written through its cache, which knows the step."""
        raise NotImplementedError("write through StreamCache.update")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Refused: the cache answers."""
        raise NotImplementedError("ask StreamCache.get_mask_sizes")

    def get_seq_length(self) -> int:
        """Refused: the cache answers."""
        raise NotImplementedError("ask StreamCache.get_seq_length")

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


def _empty(like: Tensor, columns: int) -> Tensor:
    """An arena for `like`; never an inference tensor, so that it can be written inside and outside that mode."""
    with torch.inference_mode(False):
        B, G, _, D = like.shape
        return torch.empty(B, G, columns, D, dtype=like.dtype, device=like.device)


def _resized(x: Tensor, columns: int, used: int, rows: Tensor | None = None) -> Tensor:
    source = x[:, :, :used] if rows is None else x[:, :, :used].index_select(0, rows)
    out = _empty(source, columns)
    out[:, :, :used] = source
    return out
