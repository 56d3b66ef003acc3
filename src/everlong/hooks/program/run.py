"""A recorded decoder, run for a token of each of some streams: by the extension between attentions, else in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.hooks.program.listing import WORDS, Lowered
from everlong.hooks.program.lower import LINEAR_KIND
from everlong.hooks.program.place import HostPlace
from everlong.hooks.program.record import AttentionSettings

BYTES = 8 * WORDS


class Program:
    """The list and its rooms; one step at a time, of one stream or of some that are packed."""

    def __init__(self, lowered: Lowered, native: Any, dtype: torch.dtype, answer: type[Any]) -> None:
        self.answer = answer
        """The class of what the decoder's forward gives."""
        self.lowered = lowered
        self._native = native
        self.dtype = dtype
        self._room = (lowered.room.data_ptr(), lowered.room.shape[1] * lowered.room.element_size())
        self._start = lowered.words.ctypes.data
        self._rows: list[list[list[Tensor]]] = []

    def _handed(self, rows: int) -> list[list[list[Tensor]]]:
        """q, k and v of each segment's attention, for each row."""
        segments = self.lowered.segments
        while len(self._rows) < rows:
            row = len(self._rows)
            self._rows.append([[x.of(self.lowered.room, row) for x in segment.handed] for segment in segments])
        return self._rows

    def run(self, steps: Sequence[ForwardPlan], inputs: Sequence[list[Tensor]]) -> Tensor:
        """The last hidden states [1, rows, width] of one token of each step; `inputs` are as they were recorded."""
        lowered = self.lowered
        for row, own in enumerate(inputs):
            self._upload(row, own)
        found = self._handed(len(steps))
        threads = torch.get_num_threads()
        outs: list[Tensor] = []
        read = [0] * len(steps)
        for n, (first, count, call, _) in enumerate(lowered.segments):
            self.between(self._start + first * BYTES, count, threads, read)
            if call is not None:
                outs = [self._attend(step, call, *found[row][n]) for row, step in enumerate(steps)]
                read = [out.data_ptr() for out in outs]
        width = lowered.out.shape[-1]
        last = lowered.room[: len(steps), lowered.out.at : lowered.out.at + width]
        return last[None].to(self.dtype, copy=True)

    def between(self, start: int, count: int, threads: int, read: Sequence[int]) -> None:
        """Run the operations between two attentions; `read` are the addresses of what the first of them gave."""
        self._native.run(start, count, threads, *self._room, *read)

    def linears(self) -> None:
        """The list's matrix products alone, for a row of what is there: to know what they take."""
        words = self.lowered.words.reshape(-1, WORDS)
        alone = np.ascontiguousarray(words[words[:, 0] == LINEAR_KIND])
        self.between(alone.ctypes.data, len(alone), torch.get_num_threads(), [0])

    def _upload(self, row: int, inputs: list[Tensor]) -> None:
        """Make what follows from a token's id and place alone, and put it into the row's room."""
        lowered = self.lowered
        places: list[Any] = [*inputs, *[None] * (lowered.places - len(inputs))]
        for op in lowered.host:
            kwargs = {name: _filled(value, places) for name, value in op.kwargs.items()}
            places[op.place] = op.call(*_filled(op.args, places), **kwargs)
        for place, numbers in lowered.uploads.items():
            numbers.of(lowered.room, row).copy_(places[place])

    @staticmethod
    def _attend(step: ForwardPlan, call: AttentionSettings, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        columns = step.write(k, v, call.layer)
        return step.attend(call.layer, q, *columns, call.scale, call.softcap, call.s_aux).contiguous()


def _filled(given: Any, places: list[Any]) -> Any:
    """Arguments with the tensors that stand at their places; torch's own walk through them takes most of a call."""
    if isinstance(given, HostPlace):
        return places[given.at]
    return type(given)([_filled(x, places) for x in given]) if type(given) in (list, tuple) else given
