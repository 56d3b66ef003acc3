"""Which keys the queries of one cell see.

Letters: T new tokens, S sinks, W window, K chosen blocks.
"""

from __future__ import annotations

import numpy as np

from everlong.cache.frames import KeyRange
from everlong.cache.step import ForwardPlan
from everlong.cache.window import WindowLayout
from everlong.methods.blocks.cells import RetrievalChunk
from everlong.methods.blocks.fields import BlockSettings
from everlong.methods.blocks.stream import BlockStream
from everlong.ops.spans import KeyIntervals


class View:
    """Which keys the queries of one cell see: in the window, pending, and in front (sinks and chosen blocks)."""

    def __init__(
        self, s: BlockSettings, step: ForwardPlan, n: int, row: BlockStream, lane: WindowLayout, cell: RetrievalChunk
    ) -> None:
        self.settings = s
        self.cell = cell
        self.pad = row.pad
        self.queries = slice(cell.first + row.pad - step.seen, cell.end + row.pad - step.seen)
        t = np.arange(cell.first, cell.end, dtype=np.int64)[None]
        self.pending = row.cuts.start(cell.sealed)
        self._pending_place = step.places.at(self.pending + row.pad)
        self._first_place = step.places.at(row.pad)
        self.pieces: list[tuple[KeyRange, KeyIntervals]] = [(p, self._cut(p.span, n)) for p in step.pieces(lane)]
        self._first_sink = s.top_k * s.block
        self._sinks_end = self._first_sink + np.clip(t - s.window + 1, 0, s.sinks)
        self._fronts: dict[int, KeyIntervals] = {}
        self.tail = KeyIntervals(np.zeros_like(t), np.maximum(t - s.window + 1 - self.pending, 0))
        self.behind: list[KeyIntervals] = []
        if s.positions != "far":
            lo = np.full_like(t, self.pending)
            hi = np.maximum(t - s.window + 1, self.pending)
            for piece in step.pieces(lane):
                first = piece.start + lane.shift
                begin, end = (np.clip(x + row.pad - first, 0, piece.end - piece.start) for x in (lo, hi))
                self.behind.append(KeyIntervals(begin, end))
        self.joined = [_joined(near, far) for (_, near), far in zip(self.pieces, self.behind, strict=False)]

    def front(self, chosen: int) -> KeyIntervals:
        """The columns of `chosen` tokens in slots, and those of the sinks that have left the window."""
        if chosen not in self._fronts:
            first = np.full_like(self._sinks_end, self._first_sink - chosen)
            self._fronts[chosen] = KeyIntervals(first, self._sinks_end)
        return self._fronts[chosen]

    def sink_place(self, chosen: int, base: int) -> int:
        """Position of the first sink in the frame that begins at `base`, before `chosen` tokens in slots."""
        if self.settings.positions == "true":
            return self._first_place - base
        return self._pending_place - chosen - self.settings.sinks - base

    def _cut(self, span: KeyIntervals, n: int) -> KeyIntervals:
        row = slice(n, n + 1) if len(span.lo) > 1 else slice(None)
        return KeyIntervals(span.lo[row, self.queries], span.hi[row, self.queries])


def _joined(near: KeyIntervals, far: KeyIntervals) -> KeyIntervals:
    """The window and what is pending behind it as one interval of the same columns: fewer, larger products."""
    lo = np.where(far.hi > far.lo, far.lo, near.lo)
    return KeyIntervals(lo, np.where(near.hi > near.lo, near.hi, far.hi))
