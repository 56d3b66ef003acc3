"""A recorded decoder, run for a few tokens of some streams, each a row: by the extension, else in torch.

Where all that a stream's one token attends to is known before it (`ForwardPlan.token_tables`), the extension runs the
whole list, attentions included. Else each attention of that stream is done here, between two segments.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everlong.cache.step import ForwardPlan
from everlong.hooks.program.listing import WORDS, Lowered, Segment
from everlong.hooks.program.lower import LINEAR_KIND, LOAD
from everlong.hooks.program.place import HostCall, HostPlace
from everlong.hooks.program.record import AttentionSettings
from everlong.ops.attend_token import HEAD_MULTIPLE
from everlong.ops.token_tables import CALL_WORDS, MOST_DIM, MOST_RANGES, MOVE_WORDS, RANGE_WORDS, TokenTables, Words

SEGMENT_WORDS = 14
"""Of 8 bytes: `struct token_segment`."""
BYTES = 8


class Program:
    """The list and its rooms; one step at a time, of one stream or of some that are packed."""

    def __init__(self, lowered: Lowered, native: Any, dtype: torch.dtype, answer: type[Any]) -> None:
        self.answer = answer
        """The class of what the decoder's forward gives."""
        self.lowered = lowered
        self._native = native
        self.dtype = dtype
        self._rows: dict[range, list[list[Tensor]]] = {}
        self._calls = [segment.call for segment in lowered.segments if segment.call is not None]
        self._layers = [call.layer for call in self._calls]
        self._aux = [None if call.s_aux is None else call.s_aux.detach().float().contiguous() for call in self._calls]
        # Views that can be written inside and outside inference mode.
        with torch.inference_mode(False):
            out = lowered.room[:, lowered.out.at : lowered.out.at + lowered.out.shape[-1]]
            self._last = [out[None, : row + 1] for row in range(len(out))]
            """Of so many rows: where their last hidden states are."""
            self._targets = [
                [(place, x.of(lowered.room, row)) for place, x in lowered.uploads.items()] for row in range(len(out))
            ]
            """For each row, where what torch makes is put, by its place."""
        self._host = [_opened(op) for op in lowered.host]
        self._segments = np.array([self._segment(n) for n in range(len(lowered.segments))], dtype=np.int64)
        self._suits = all(map(_suits, lowered.segments[:-1])) and bool(self._calls)
        rows = len(lowered.room)
        widest = max((x.handed[0].shape[1] * x.handed[0].shape[3] for x in lowered.segments if x.handed), default=0)
        self._reads = np.zeros(rows, dtype=np.int64)
        self._outs = torch.empty(rows, widest, dtype=dtype)
        self._queries = torch.empty(MOST_RANGES, widest, dtype=dtype)

    def _segment(self, n: int) -> list[int]:
        """The words of a segment."""
        lowered = self.lowered
        first, count, call, handed = lowered.segments[n]
        start = lowered.words.ctypes.data + first * WORDS * BYTES
        if call is None:
            return [start, count, *[0] * (SEGMENT_WORDS - 2)]
        q, k = handed[:2]
        addresses = [x.of(lowered.room, 0).data_ptr() for x in handed]
        strides = [x.strides[1] for x in handed]
        (scale,) = struct.unpack("q", struct.pack("d", call.scale))
        aux = self._aux[n]
        sizes = [q.shape[1], k.shape[1], q.shape[3], scale]
        return [start, count, 1, *addresses, *strides, *sizes, 0 if aux is None else aux.data_ptr()]

    def run(self, steps: Sequence[ForwardPlan], inputs: Sequence[list[Tensor]]) -> Tensor:
        """The last hidden states [1, rows, width] of the steps' tokens, a row each; `inputs`, as recorded, of each."""
        for row, own in enumerate(inputs):
            self._upload(row, own)
        tables: list[TokenTables | None] = []
        others: list[tuple[ForwardPlan, range]] = []
        for step in steps:
            rows = range(len(tables), len(tables) + step.tokens)
            table = self._tables(step) if step.tokens == 1 else None
            tables += [table] * step.tokens
            if table is None:
                others.append((step, rows))
        words, kept = self._token(tables)
        if others:
            self._between(others, words)
        else:
            self.token(words)
        del kept
        return self._last[len(inputs) - 1].to(self.dtype, copy=True)

    def _tables(self, step: ForwardPlan) -> TokenTables | None:
        """All attentions of a step, where the extension does them."""
        return step.token_tables(self._layers) if self._suits and step.dtype == self.dtype else None

    def _between(self, steps: Sequence[tuple[ForwardPlan, range]], words: Words) -> None:
        """Run segment by segment, with the attentions of `steps`, each with its rows, between them."""
        found = [self._handed(rows) for _, rows in steps]
        outs: list[Tensor] = []
        for n, segment in enumerate(self.lowered.segments):
            words[1] = n
            words[2] = n + 1
            self.token(words)
            if segment.call is not None:
                outs = [self._attend(step, segment.call, *own[n]) for (step, _), own in zip(steps, found, strict=True)]
                for (step, rows), out in zip(steps, outs, strict=True):
                    self._reads[rows.start : rows.stop] = out.data_ptr() + out[0, 0].nbytes * np.arange(step.tokens)

    def token(self, words: Words) -> None:
        """What the extension does of a token: `struct token`."""
        self._native.token(words.ctypes.data)

    def alone(self, linears: bool) -> None:
        """Run the list's matrix products alone, or all else but what attentions give, to know what they take."""
        operations = self.lowered.words.reshape(-1, WORDS)
        kinds = operations[:, 0]
        wanted = kinds == LINEAR_KIND if linears else (kinds != LINEAR_KIND) & (kinds != LOAD)
        chosen = np.ascontiguousarray(operations[wanted])
        segment = np.array([chosen.ctypes.data, len(chosen), *[0] * (SEGMENT_WORDS - 2)], dtype=np.int64)
        words, kept = self._token([None])
        words[0] = segment.ctypes.data
        words[2] = 1
        self.token(words)
        del kept

    def _token(self, tables: Sequence[TokenTables | None]) -> tuple[Words, list[Any]]:
        """`struct token` for these rows, and what must live while it is used."""
        lowered = self.lowered
        each = [max((getattr(t, name).shape[1] for t in tables if t is not None), default=0) for name in _TABLES]
        sizes = CALL_WORDS, each[0] * RANGE_WORDS, each[1] * MOVE_WORDS
        rows = len(tables)
        calls, ranges, moves = (np.zeros((len(self._calls), rows, size), dtype=np.int64) for size in sizes)
        for row, table in enumerate(tables):
            if table is not None:
                calls[:, row] = table.calls
                for whole, own in ((ranges, table.ranges), (moves, table.moves)):
                    flat = own.reshape(len(own), -1)
                    whole[:, row, : flat.shape[1]] = flat
        out_bytes = self._outs.shape[1] * self._outs.element_size()
        room = lowered.room
        words = [self._segments.ctypes.data, 0, len(self._segments), rows]
        words += [room.data_ptr(), room.shape[1] * room.element_size(), self.dtype == torch.bfloat16, *each]
        words += [calls.ctypes.data, ranges.ctypes.data, moves.ctypes.data, self._reads.ctypes.data]
        words += [self._outs.data_ptr(), out_bytes, self._queries.data_ptr(), torch.get_num_threads()]
        return np.array(words, dtype=np.int64), [calls, ranges, moves, tables]

    def _handed(self, rows: range) -> list[list[Tensor]]:
        """q, k and v of each segment's attention, of the tokens in these rows."""
        if rows not in self._rows:
            # Views of every first row and count would be tens of thousands.
            if len(self._rows) >= len(self.lowered.room):
                self._rows.clear()
            room = self.lowered.room
            count = len(rows)
            self._rows[rows] = [[x.of_rows(room, rows.start, count) for x in s.handed] for s in self.lowered.segments]
        return self._rows[rows]

    def _upload(self, row: int, inputs: list[Tensor]) -> None:
        """Make what follows from a token's id and place alone, and put it into the row's room."""
        lowered = self.lowered
        places: list[Any] = [*inputs, *[None] * (lowered.places - len(inputs))]
        for op, given, holes in self._host:
            for within, key, at in holes:
                within[key] = places[at]
            args, kwargs = given
            places[op.place] = op.call(*args, **kwargs)
        for place, target in self._targets[row]:
            target.copy_(places[place])

    @staticmethod
    def _attend(step: ForwardPlan, call: AttentionSettings, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        columns = step.write(k, v, call.layer)
        return step.attend(call.layer, q, *columns, call.scale, call.softcap, call.s_aux).contiguous()


_TABLES = ("ranges", "moves")

Hole = tuple[Any, Any, int]
"""A list or dict of arguments, where in it a tensor is put, and the tensor's place."""


def token_inputs(steps: Sequence[ForwardPlan], ids: Tensor) -> list[list[Tensor]]:
    """What the decoder would be given for each token of the steps alone; `ids` [1, T] of all."""
    places = [place for step in steps for place in step.positions(ids.device).split(1, -1)]
    return [list(row) for row in zip(ids.split(1, 1), places, strict=True)]


def _suits(segment: Segment) -> bool:
    """Whether the extension does a segment's attention: keys and values alike, their numbers side by side, no cap."""
    assert segment.call is not None
    q, k, v = segment.handed
    alike = q.shape[3] == k.shape[3] == v.shape[3] and k.shape[1] == v.shape[1]
    dim = q.shape[3]
    beside = all(x.strides[3] == 1 for x in segment.handed)
    return alike and beside and dim % HEAD_MULTIPLE == 0 and dim <= MOST_DIM and segment.call.softcap is None


def _opened(op: HostCall) -> tuple[HostCall, tuple[list[Any], dict[str, Any]], list[Hole]]:
    """An operation, its arguments as lists, and where in them the tensors of a token are put.

    torch's own walk through arguments, for each token, takes most of a call.
    """
    holes: list[Hole] = []

    def opened(given: Any) -> Any:
        if type(given) not in (list, tuple, dict):
            return given
        parts = dict(given) if isinstance(given, dict) else list(given)
        for key, x in parts.items() if isinstance(parts, dict) else enumerate(parts):
            if isinstance(x, HostPlace):
                holes.append((parts, key, x.at))
            else:
                parts[key] = opened(x)
        return parts

    return op, (opened(op.args), opened(op.kwargs)), holes
