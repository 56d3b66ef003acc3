"""A recorded decoder as plain data, and back for the same decoder in another process.

Addresses become parts of the room or of the decoder's own parameters and buffers, by name; operations done in torch
become their names. What cannot be named so is not kept: NotPortable.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everlong.hooks.program.listing import ROWS, WORDS, Lowered, Numbers, Segment
from everlong.hooks.program.place import HostCall, HostPlace, storage_of
from everlong.hooks.program.record import AttentionSettings
from everlong.hooks.program.run import Program

ADDRESSES = (5, 10, 15, 20)
"""The words of an operation that are addresses (`struct operation`: out, a, b, c)."""
NOWHERE, ROOM, OWN, COPY = 0, 1, 2, 3
"""What an address is in: nothing, the room, a parameter or buffer, or a float32 copy of a part of one."""
_KINDS: dict[str, type[Any]] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


class NotPortable(Exception):
    """Why a program cannot be kept; the message says it in words."""


class Names:
    """The parameters and buffers of a decoder by name; those that share their numbers by the first."""

    def __init__(self, decoder: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._by_storage: dict[int, str] = {}
        for name, x in [*decoder.named_parameters(), *decoder.named_buffers()]:
            if storage_of(x) not in self._by_storage:
                self.tensors[name] = x.detach()
                self._by_storage[storage_of(x)] = name
        self.order = list(self.tensors)

    def part(self, x: Tensor) -> list[Any]:
        """How to find `x`, which looks at numbers of one of them: name, type, shape, strides and first number."""
        name = self._by_storage.get(storage_of(x))
        if name is None or x.dtype != self.tensors[name].dtype:
            raise NotPortable("a tensor that is not the decoder's own")
        return [name, list(x.shape), list(x.stride()), int(x.storage_offset())]

    def find(self, part: list[Any]) -> Tensor:
        """What `part` described."""
        name, shape, strides, first = part
        return self.tensors[name].as_strided(shape, strides, first)

    def starts(self) -> list[tuple[int, int]]:
        """Where each begins, and its bytes."""
        return [(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in self.tensors.values()]


def as_plain(program: Program, decoder: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A document for JSON, and tensors."""
    lowered = program.lowered
    names = Names(decoder)
    sources = lowered.kept[: len(lowered.kept) // 2]
    copies = lowered.kept[len(sources) :]
    words, where = _named(lowered, names.starts(), copies)
    document = {
        "sources": [names.part(x) for x in sources],
        "segments": [_segment(segment, names) for segment in lowered.segments],
        "host": [[str(op.call), _given(op.args, names), _given(op.kwargs, names), op.place] for op in lowered.host],
        "uploads": [[place, _numbers(x)] for place, x in lowered.uploads.items()],
        "places": lowered.places,
        "out": _numbers(lowered.out),
        "numbers": lowered.room.shape[1],
        "dtype": _plain_name(program.dtype),
        "answer": [program.answer.__module__, program.answer.__qualname__],
    }
    return document, {"words": torch.from_numpy(words), "where": torch.from_numpy(where)}


def from_plain(document: dict[str, Any], tensors: dict[str, Tensor], decoder: nn.Module, native: Any) -> Program:
    """The program of a decoder that is the one that was kept."""
    names = Names(decoder)
    sources = [names.find(part) for part in document["sources"]]
    copies = [x.float().contiguous() for x in sources]
    room = torch.zeros(ROWS, document["numbers"])
    begins = {ROOM: [room.data_ptr()], OWN: [at for at, _ in names.starts()], COPY: [x.data_ptr() for x in copies]}
    lowered = Lowered(
        _placed(tensors["words"].numpy().copy(), tensors["where"].numpy(), begins),
        [_made_segment(x, names) for x in document["segments"]],
        [HostCall(_operation(n), tuple(_made(a, names)), _made(k, names), p) for n, a, k, p in document["host"]],
        {place: _made_numbers(x) for place, x in document["uploads"]},
        document["places"],
        _made_numbers(document["out"]),
        room,
        [*sources, *copies],
    )
    return Program(lowered, native, getattr(torch, document["dtype"]), _answer(*document["answer"]))


def _named(lowered: Lowered, own: list[tuple[int, int]], copies: list[Tensor]) -> tuple[Any, Any]:
    """The words with addresses as bytes from where they begin, and what each is in: kind, number."""
    words = lowered.words.reshape(-1, WORDS).copy()
    room = (lowered.room.data_ptr(), lowered.room.nbytes)
    ranges = [(ROOM, 0, *room), *((OWN, n, *at) for n, at in enumerate(own))]
    ranges += [(COPY, n, x.data_ptr(), x.nbytes) for n, x in enumerate(copies)]
    where = np.zeros((len(words), len(ADDRESSES), 2), dtype=np.int64)
    for row, column in np.ndindex(len(words), len(ADDRESSES)):
        address = int(words[row, ADDRESSES[column]])
        if address:
            kind, number, begin = _range_of(address, ranges)
            where[row, column] = kind, number
            words[row, ADDRESSES[column]] = address - begin
    return words, where


def _range_of(address: int, ranges: list[tuple[int, int, int, int]]) -> tuple[int, int, int]:
    for kind, number, begin, count in ranges:
        if begin <= address < begin + count:
            return kind, number, begin
    raise NotPortable("an address outside of what is known")


def _placed(words: Any, where: Any, begins: dict[int, list[int]]) -> Any:
    """The words with addresses of this process."""
    for column, word in enumerate(ADDRESSES):
        for kind, starts in begins.items():
            rows = np.flatnonzero(where[:, column, 0] == kind)
            words[rows, word] += np.array(starts, dtype=np.int64)[where[rows, column, 1]]
    return words.reshape(-1)


def _segment(segment: Segment, names: Names) -> list[Any]:
    call = segment.call
    settings = None
    if call is not None:
        settings = [call.layer, call.scale, call.softcap, None if call.s_aux is None else names.part(call.s_aux)]
    return [segment.first, segment.count, settings, [_numbers(x) for x in segment.handed]]


def _made_segment(plain: list[Any], names: Names) -> Segment:
    first, count, settings, handed = plain
    call = None
    if settings is not None:
        layer, scale, softcap, s_aux = settings
        call = AttentionSettings(layer, scale, softcap, None if s_aux is None else names.find(s_aux))
    return Segment(first, count, call, tuple(_made_numbers(x) for x in handed))


def _numbers(x: Numbers) -> list[Any]:
    return [x.at, list(x.shape), list(x.strides), _plain_name(x.dtype)]


def _made_numbers(plain: list[Any]) -> Numbers:
    at, shape, strides, dtype = plain
    return Numbers(at, tuple(shape), tuple(strides), getattr(torch, dtype))


def _given(x: Any, names: Names) -> Any:
    """Arguments as plain data: what is not a number, a word or a list becomes a mapping that says what it is."""
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, list | tuple):
        return [_given(one, names) for one in x]
    if isinstance(x, dict):
        return {"dict": {name: _given(one, names) for name, one in x.items()}}
    if isinstance(x, HostPlace):
        return {"place": x.at}
    if isinstance(x, Tensor):
        return {"part": names.part(x)}
    if isinstance(x, torch.device) and x.type == "cpu":
        return {"device": "cpu"}
    for kind, cls in _KINDS.items():
        if isinstance(x, cls):
            return {kind: _plain_name(x)}
    raise NotPortable(f"an argument of type {type(x).__name__}")


def _made(x: Any, names: Names) -> Any:
    if isinstance(x, list):
        return [_made(one, names) for one in x]
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind == "dict":
        return {name: _made(one, names) for name, one in value.items()}
    if kind == "place":
        return HostPlace(value)
    if kind == "part":
        return names.find(value)
    return torch.device(value) if kind == "device" else getattr(torch, value)


def _plain_name(x: Any) -> str:
    return str(x).removeprefix("torch.")


def _operation(name: str) -> Any:
    """The operation of torch that is named so, as in aten.embedding.default."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _answer(module: str, name: str) -> type[Any]:
    """A class of transformers."""
    if module.split(".", maxsplit=1)[0] != "transformers":
        raise NotPortable("an answer of another package")
    return getattr(importlib.import_module(module), name)
