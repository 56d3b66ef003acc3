"""From what was recorded to a list that the extension runs: buffers, addresses, strides (native/program.h).

What is computed between one attention and the next is a segment. An operation that is not known is an error: the model
is then run as it is.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everlong.hooks.program.listing import ROWS, Lowered, Numbers, Segment, Words
from everlong.hooks.program.place import ALIGNED, Placement, short_name, storage_of
from everlong.hooks.program.record import ATTENTION, LINEAR, NotRecorded, Operation
from everlong.ops.packed import FORMATS

DIMS = 4

_UNARY = {"neg": 1, "exp": 2, "tanh": 3, "sigmoid": 4, "silu": 5, "relu": 8, "rsqrt": 9, "sqrt": 10, "square": 11}
_UNARY |= {"softplus": 13}
_COPIES = {"clone", "contiguous", "to", "_to_copy", "reshape", "view", "repeat", "expand"}
_BINARY = {"add": 32, "sub": 33, "mul": 34, "div": 35}
COPY, GELU, GELU_TANH, SQUARE, POWER, MEAN, RMS_NORM, LAYER_NORM = 0, 6, 7, 11, 12, 48, 49, 50
LINEAR_KIND, LOAD, STORE = 64, 65, 66


class Lowering:
    """What was recorded of one forward, as a list; NotRecorded for an operation that is not known."""

    def __init__(self, decoder: nn.Module, operations: list[Operation], inputs: list[Tensor], out: Tensor) -> None:
        self.dtype = out.dtype
        self._placed = Placement(decoder, operations, inputs, out)
        self._extra: dict[int, int] = {}
        self._room = torch.zeros(ROWS, self._numbers())
        self._words: list[Words] = []
        self._kept: list[Any] = []
        self._uploads: dict[int, Numbers] = {}
        self._copies: dict[int, Tensor] = {}

    def _numbers(self) -> int:
        """How many float32 numbers a row has: buffers, what torch makes, what attention is handed in bfloat16."""
        total = self._placed.buffers.numbers
        halves = self.dtype != torch.float32
        calls = [op.args[0] for op in self._placed.native if op.name == ATTENTION] if halves else []
        wanted = [(key, x.numel()) for key, x in self._placed.given.items()]
        wanted += [(id(x), -(-x.numel() // 2)) for call in calls for x in (call.q, call.k, call.v)]
        for key, count in wanted:
            self._extra[key] = total
            total += -(-count // ALIGNED) * ALIGNED
        return total

    def lowered(self, out: Tensor) -> Lowered:
        """All of it; `out` is the last hidden state that was recorded."""
        segments = []
        first = 0
        for op in self._placed.native:
            if op.name != ATTENTION:
                self._emit(op)
                continue
            call = op.args[0]
            handed = tuple(self._handed(x) for x in (call.q, call.k, call.v))
            segments.append(Segment(first, len(self._words) - first, call.settings, handed))
            first = len(self._words)
            self._add(LOAD, op.out.reshape(-1), format=int(op.out.dtype == torch.bfloat16))
        segments.append(Segment(first, len(self._words) - first, None))
        words = np.concatenate(self._words)
        kept = [*self._kept, *self._copies.values()]
        places = len(self._placed.places)
        result = self._numbers_of(self._view(out))
        return Lowered(words, segments, self._placed.host, self._uploads, places, result, self._room, kept)

    def _handed(self, x: Tensor) -> Numbers:
        """Where attention is handed `x`, in the model's type."""
        if self.dtype == torch.float32:
            return self._numbers_of(self._view(x))
        at = self._extra[id(x)]
        made = torch.empty(x.shape, dtype=self.dtype, device="meta")
        self._add(STORE, made, x, out_address=self._room.data_ptr() + 4 * at)
        return Numbers(2 * at, tuple(x.shape), made.stride(), self.dtype)

    def _numbers_of(self, view: Tensor) -> Numbers:
        return Numbers(int(view.storage_offset()), tuple(view.shape), view.stride(), torch.float32)

    def _emit(self, op: Operation) -> None:
        name = short_name(op.name)
        args = op.args
        if op.name == LINEAR:
            x, module = args
            forms = (FORMATS[module.form], module.out_features, module.in_features)
            self._linear(op.out, x, module.packed.data_ptr(), module.bias, *forms)
        elif name == "linear":
            x, weight, bias = (*args, None)[:3]
            if not weight.is_contiguous() or storage_of(weight) not in self._placed.constants:
                raise NotRecorded("a linear layer whose weights are not as they are kept")
            form = FORMATS[str(weight.dtype).removeprefix("torch.")]
            self._linear(op.out, x, weight.data_ptr(), bias, form, *weight.shape)
        elif name in _BINARY:
            self._binary(op, name)
        elif name in _UNARY:
            if name == "softplus" and len(args) > 1:
                raise NotRecorded(f"{op.name} with other than its defaults")
            self._add(_UNARY[name], op.out, args[0])
        elif name == "gelu":
            self._add(GELU_TANH if op.kwargs.get("approximate") == "tanh" else GELU, op.out, args[0])
        elif name == "pow" and isinstance(args[1], int | float):
            self._add(SQUARE if args[1] == 2 else POWER, op.out, args[0], number=float(args[1]))
        elif name in ("mean", "rms_norm", "layer_norm"):
            self._over_rows(op, name)
        elif name in ("cat", "stack"):
            self._joined(op, name)
        elif name in _COPIES and isinstance(op.out, Tensor):
            self._copy(op.out, args[0])
        else:
            raise NotRecorded(f"{op.name} is not known")

    def _binary(self, op: Operation, name: str) -> None:
        a, b = op.args[:2]
        if op.kwargs.get("alpha", 1) != 1 or len(op.args) > 2 or "rounding_mode" in op.kwargs:
            raise NotRecorded(f"{op.name} with more than two operands")
        if not isinstance(a, Tensor):
            raise NotRecorded(f"{op.name} of a number")
        if isinstance(b, Tensor):
            self._add(_BINARY[name], op.out, a, b)
        else:
            self._add(_BINARY[name], op.out, a, number=float(b))

    def _over_rows(self, op: Operation, name: str) -> None:
        x = op.args[0]
        if name == "mean":
            dims = [d % x.ndim for d in op.args[1]]
            if dims != [x.ndim - 1] or not op.kwargs.get("keepdim", (*op.args, None, False)[2]):
                raise NotRecorded(f"{op.name} over other than the last dimension")
            self._add(MEAN, op.out.expand(x.shape), x, rows=True)
            return
        shape, weight, *rest = (*op.args[1:], None, None, None)[:4]
        bias, eps = (None, rest[0]) if name == "rms_norm" else rest
        if shape is None or len(shape) != 1 or (eps is None and name == "rms_norm"):
            raise NotRecorded(f"{op.name} over other than the last dimension")
        kind = RMS_NORM if name == "rms_norm" else LAYER_NORM
        eps = 1e-5 if eps is None else eps
        self._add(kind, op.out, x, number=eps, b_address=self._row(weight), c=self._row(bias), rows=True)

    def _joined(self, op: Operation, name: str) -> None:
        parts = list(op.args[0])
        dim = (*op.args, 0)[1] % op.out.ndim
        at = 0
        for part in parts:
            n = 1 if name == "stack" else part.shape[dim]
            piece = op.out.select(dim, at) if name == "stack" else op.out.narrow(dim, at, n)
            self._copy(piece, part)
            at += n

    def _copy(self, out: Tensor, x: Tensor) -> None:
        if not (x.is_floating_point() and out.is_floating_point()) or x.numel() != out.numel():
            raise NotRecorded("a copy of other than as many floating-point numbers")
        self._add(COPY, out, x if x.shape == out.shape else _reshaped(x, out.shape))

    def _linear(
        self, out: Tensor, x: Tensor, weight: int, bias: Tensor | None, form: int, outputs: int, inputs: int
    ) -> None:
        if x.numel() != inputs:
            raise NotRecorded("a linear layer over more than one token")
        if not x.is_contiguous():
            raise NotRecorded("a linear layer over numbers that do not lie side by side")
        row = (out.reshape(-1), x.reshape(-1)[:1])
        sizes = {"format": form, "outputs": outputs, "inputs": inputs}
        self._add(LINEAR_KIND, *row, b_address=weight, c=self._row(bias), **sizes)

    # Addresses.

    def _add(
        self,
        kind: int,
        out: Tensor,
        a: Tensor | None = None,
        b: Tensor | None = None,
        number: float = 0.0,
        out_address: int = 0,
        b_address: int = 0,
        c: int = 0,
        format: int = 0,
        outputs: int = 0,
        inputs: int = 0,
        rows: bool = False,
    ) -> None:
        """One operation: over the shape of `out`, `a` and `b` broadcast to it."""
        found = [(out_address or self._address(out), out.stride())]
        none = (0, (0,) * out.ndim)
        found += [none if x is None else self._broadcast(x, out.shape) for x in (a, b)]
        size, strides = _collapsed(tuple(out.shape), [stride for _, stride in found], keep_last=rows)
        words = [kind, *size]
        for (address, _), stride in zip(found, strides, strict=True):
            words += [address, *stride]
        if b_address:
            words[-1 - DIMS] = b_address
        bits = struct.unpack("q", struct.pack("d", number))[0]
        words += [c, bits, format, outputs, inputs, 0, 0, 0]
        self._words.append(np.array(words, dtype=np.int64))

    def _broadcast(self, x: Tensor, shape: Any) -> tuple[int, tuple[int, ...]]:
        if not x.is_floating_point():
            raise NotRecorded("numbers that are not floating-point")
        found = self._found(x)
        return found.data_ptr(), found.expand(shape).stride()

    def _address(self, x: Tensor) -> int:
        return self._view(x).data_ptr()

    def _found(self, x: Tensor) -> Tensor:
        """What stands for `x`: a constant, or a part of the buffers."""
        return self._constant(x) if storage_of(x) in self._placed.constants else self._view(x)

    def _row(self, x: Tensor | None) -> int:
        """The address of numbers that lie side by side; 0 for None."""
        if x is None:
            return 0
        found = self._found(x)
        if not found.is_contiguous():
            raise NotRecorded("weights that do not lie side by side")
        return found.data_ptr()

    def _view(self, x: Tensor) -> Tensor:
        """What stands for `x` in the buffers; of a tensor of the host, in its copy."""
        key = storage_of(x)
        if key in self._placed.given:
            whole = self._placed.given[key]
            if not whole.is_contiguous() or whole.storage_offset() or not whole.is_floating_point():
                raise NotRecorded("what follows from the token's id or place does not lie side by side")
            at = self._extra[key]
            copy = Numbers(at, tuple(whole.shape), whole.stride(), torch.float32)
            self._uploads.setdefault(self._placed.places[id(whole)], copy)
            return self._room.as_strided(x.shape, x.stride(), at + x.storage_offset())
        if (at := self._placed.buffers.at.get(key)) is None:
            raise NotRecorded("a tensor that is neither the model's nor computed")
        return self._room.as_strided(x.shape, x.stride(), at + x.storage_offset())

    def _constant(self, x: Tensor) -> Tensor:
        """A parameter, or a part of one, in float32."""
        if id(x) not in self._copies:
            self._copies[id(x)] = x.detach().float().contiguous()
            self._kept.append(x)
        return self._copies[id(x)]


def _reshaped(x: Tensor, shape: Any) -> Tensor:
    """`x` in another shape; NotRecorded where that is no view."""
    try:
        return x.view(shape)
    except RuntimeError:
        raise NotRecorded("numbers are brought into another order and shape at once") from None


def _collapsed(
    shape: tuple[int, ...], strides: list[tuple[int, ...]], keep_last: bool
) -> tuple[list[int], list[list[int]]]:
    """The same in four dimensions: those of size 1 are left out, neighbours that lie side by side are joined."""
    dims = [(n, *each) for n, *each in zip(shape, *strides, strict=True) if n != 1]
    if keep_last and (not shape or shape[-1] == 1):
        raise NotRecorded("rows of one number")
    joined: list[tuple[int, ...]] = []
    for n, *each in dims:
        last = len(joined) and not (keep_last and (n, *each) == dims[-1])
        if last and all(before == stride * n for before, stride in zip(joined[-1][1:], each, strict=True)):
            joined[-1] = (joined[-1][0] * n, *each)
        else:
            joined.append((n, *each))
    if len(joined) > DIMS:
        raise NotRecorded(f"more than {DIMS} dimensions")
    joined = [(1, *(0 for _ in strides))] * (DIMS - len(joined)) + joined
    size, *turned = zip(*joined, strict=True)
    return list(size), [list(x) for x in turned]
