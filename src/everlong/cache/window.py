"""Where the tokens of a layer lie, and which of them each query sees.

A lane is shared by all layers with the same native pattern (full, sliding by n, chunked by c). Its layers keep
[first R tokens | newest tokens] in one arena: the token with index j lies in column j while nothing has moved,
later the first R tokens stay in their columns and token j >= R lies in column j - shift.

Positions are places in the cache (StreamingLLM, arXiv 2309.17453, section 3.2): the newest token is at
min(t, S + W - 1), so native windows and chunks apply to that distance and not to the distance in the text.

With `segment` the window ends at a segment's start: a token sees its segment, and the W - segment tokens before it.

Letters: R rows with intervals of their own, T new tokens, S sinks, W window, n native window, c native chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from everlong.models.layout import Pattern
from everlong.ops.spans import Ints, KeyIntervals

ENDLESS = 1 << 40
"""Stands for a window without end (dense)."""


@dataclass
class WindowLayout:
    """Geometry of the layers that share a native pattern."""

    pattern: Pattern
    sinks: int
    window: int
    room: int
    pads: Ints | None = None
    shift: int = 0
    behind: int = 0
    """Tokens kept behind the window for a memory that reads them from there."""
    segment: int | None = None
    """A window that moves by whole segments: a token sees its own segment up to itself and what was before it."""
    reach: int = field(default=0, compare=False)
    """Up to so many tokens of the stream the shift may stay as it is; 0: not known."""

    @property
    def kept(self) -> int:
        """How many of the newest tokens a layer must keep for the query after them, itself included."""
        native = [n for n in (self.pattern.sliding, self.pattern.chunked) if n is not None]
        return min([self.window + self.behind, *native])

    @property
    def fixed(self) -> int:
        """R, the columns at the start that never move: the sinks of every row (and its padding)."""
        if self.sinks == 0 or (self.kept < self.window and self.pattern.sliding is not None):
            return 0
        return self.sinks + (0 if self.pads is None else int(self.pads.max()))

    @property
    def capacity(self) -> int | None:
        """Columns of an arena; None: as many as there are tokens."""
        return None if self.kept >= ENDLESS else self.fixed + self.kept - 1 + self.room

    def oldest(self, seen: int) -> int:
        """Index of the oldest token, apart from the sinks, that token `seen` (the next one) can see."""
        return max(0, seen - self.kept + 1)

    def make_room(self, seen: int, tokens: int) -> None:
        """Choose the shift for a step of `tokens`; layers follow when they next write."""
        oldest = self.oldest(seen)
        capacity = self.capacity
        if capacity is not None and seen - self.shift + tokens > capacity and oldest > self.fixed:
            self.shift = max(self.shift, oldest - self.fixed)
        self.reach = ENDLESS if capacity is None else capacity + self.shift

    def own(self, seen: int, tokens: int) -> Ints:
        """Index of each new token within its own row (padding not counted): [R, T]."""
        t = seen + np.arange(tokens, dtype=np.int64)[None]
        return t if self.pads is None else t - self.pads[:, None]

    def place(self, t: Ints) -> Ints:
        """Position of each query in the cache, min(t, S + W - 1)."""
        return np.minimum(t, self.sinks + self.window - 1)

    def near(self, seen: int, tokens: int, first: int, end: int) -> KeyIntervals:
        """Which of the tokens `first` .. `end - 1` each new token sees in its window."""
        t = self.own(seen, tokens)
        lo = np.maximum(t - self.window + 1, 0)
        if self.segment is not None:
            lo = np.maximum(lo, t - t % self.segment - (self.window - self.segment))
        if self.pattern.sliding is not None:
            lo = np.maximum(lo, t - self.pattern.sliding + 1)
        if self.pattern.chunked is not None:
            lo = np.maximum(lo, t - self.place(t) % self.pattern.chunked)
        return self._columns(lo, t + 1, first, end)

    def far(self, seen: int, tokens: int) -> KeyIntervals:
        """Which of the first R columns each new token sees as sinks: those that its window has left."""
        t = self.own(seen, tokens)
        lo = np.zeros_like(t)
        hi = np.clip(t - self.window + 1, 0, self.sinks)
        if self.pattern.sliding is not None:
            lo = np.clip(self.place(t) - self.pattern.sliding + 1, 0, self.sinks)
        if self.pattern.chunked is not None:
            lo = np.where(self.place(t) >= self.pattern.chunked, self.sinks, lo)
        return self._columns(lo, np.maximum(lo, hi), 0, self.fixed)

    def _columns(self, lo: Ints, hi: Ints, first: int, end: int) -> KeyIntervals:
        pads = 0 if self.pads is None else self.pads[:, None]
        return KeyIntervals(np.clip(lo + pads - first, 0, end - first), np.clip(hi + pads - first, 0, end - first))
