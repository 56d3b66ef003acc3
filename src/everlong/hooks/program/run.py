"""A recorded decoder, run for one token: the extension between attentions, torch for what comes before the first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from everlong.cache.step import ForwardPlan
from everlong.hooks.program.lower import WORDS, Lowered
from everlong.hooks.program.place import HostPlace

BYTES = 8 * WORDS


class Program:
    """The list and its buffers; one step at a time."""

    def __init__(self, lowered: Lowered, native: Any, dtype: torch.dtype, answer: type[Any]) -> None:
        self.answer = answer
        """The class of what the decoder's forward gives."""
        self._lowered = lowered
        self._native = native
        self._dtype = dtype
        start = lowered.words.ctypes.data
        self._segments = [(start + s.first * BYTES, s.count, s.call) for s in lowered.segments]
        self._host = lowered.host

    def run(self, step: ForwardPlan, inputs: list[Tensor]) -> Tensor:
        """The last hidden state [1, 1, width] of one token; `inputs` are as they were recorded."""
        lowered = self._lowered
        places: list[Any] = [*inputs, *[None] * (lowered.places - len(inputs))]
        for op in lowered.host:
            args, kwargs = tree_map_only(HostPlace, lambda p: places[p.at], (op.args, op.kwargs))
            places[op.place] = op.call(*args, **kwargs)
        for place, buffer in lowered.uploads.items():
            buffer.copy_(places[place])
        run = self._native.run
        threads = torch.get_num_threads()
        handed = 0
        for first, count, call in self._segments:
            run(first, count, handed, threads)
            if call is not None:
                k, v = step.write(call.k, call.v, call.layer)
                out = step.attend(call.layer, call.q, k, v, call.scale, call.softcap, call.s_aux).contiguous()
                handed = out.data_ptr()
        return lowered.out.to(self._dtype, copy=True)
