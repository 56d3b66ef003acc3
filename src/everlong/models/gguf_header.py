"""What a GGUF file says of its model before the weights begin.

Read by hand and not with the package gguf, which takes seconds to make an object of each token of a vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of values by their numbers in the file; 8 is a string and 9 an array."""
_STRING = 8
_ARRAY = 9


@dataclass(frozen=True)
class Header:
    """The model's kind, the tokens it was trained to see, and how many numbers it has."""

    architecture: str
    context_tokens: int | None
    parameters: int


def read_header(path: Path) -> Header:
    """The header of a GGUF file; ValueError for another file, or one of an older format."""
    with path.open("rb") as file:
        magic, version, tensors, values = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version < 2:
            raise ValueError(f"{path}: not a GGUF file of version 2 or newer")
        try:
            facts = dict(_value_of(file) for _ in range(values))
            sizes = [_tensor_size(file) for _ in range(tensors)]
        except (struct.error, KeyError, UnicodeDecodeError, MemoryError, OverflowError) as error:
            raise ValueError(f"{path}: cannot be read as a GGUF file ({error})") from None
    kind = str(facts.get("general.architecture", ""))
    context = facts.get(f"{kind}.context_length")
    return Header(kind, context if isinstance(context, int) else None, sum(sizes))


def _value_of(file: BinaryIO) -> tuple[str, Any]:
    """The next value with its name; arrays are passed over."""
    name = _string(file)
    (kind,) = _unpacked(file, "I")
    return name, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _unpacked(file, _FORMATS[kind])[0]
    inner, count = _unpacked(file, "IQ")
    if inner in _FORMATS:
        file.seek(count * struct.calcsize(_FORMATS[inner]), 1)
        return None
    skip: Callable[[], Any] = (lambda: _skip_string(file)) if inner == _STRING else (lambda: _value(file, inner))
    for _ in range(count):
        skip()
    return None


def _tensor_size(file: BinaryIO) -> int:
    """How many numbers the next tensor has."""
    _skip_string(file)
    (axes,) = _unpacked(file, "I")
    shape = _unpacked(file, f"{axes}Q")
    _unpacked(file, "IQ")
    return prod(shape)


def _string(file: BinaryIO) -> str:
    (length,) = _unpacked(file, "Q")
    return file.read(length).decode()


def _skip_string(file: BinaryIO) -> None:
    (length,) = _unpacked(file, "Q")
    file.seek(length, 1)


def _unpacked(file: BinaryIO, form: str) -> tuple[Any, ...]:
    form = f"<{form}"
    return struct.unpack(form, file.read(struct.calcsize(form)))
