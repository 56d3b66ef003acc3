"""What a GGUF file says of its model before the weights begin, and where each weight lies.

Read by hand and not with the package gguf, which takes seconds to make an object of each token of a vocabulary.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The types of values by their numbers in the file; 8 is a string and 9 an array."""
STRING = 8
ARRAY = 9
_LONGEST = 4096
"""Arrays of numbers that are longer are passed over."""
_ALIGNMENT = 32
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Value:
    """A value with its type. An array is a tuple, or its length where it is of strings or long."""

    kind: int
    content: Any
    start: int
    """Where its bytes begin, after the name and the type."""
    end: int
    of: int | None = None
    """The type of an array's values."""


@dataclass(frozen=True)
class TensorPlace:
    """A tensor in the file: its axes as torch has them, the number of its type, and where its bytes begin."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class Header:
    """The values by name, and the tensors in order."""

    values: dict[str, Value]
    tensors: tuple[TensorPlace, ...]

    @property
    def architecture(self) -> str:
        """The model's kind by the name that the file has for it, or nothing."""
        return str(self.get("general.architecture") or "")

    @property
    def context_tokens(self) -> int | None:
        """How many tokens the model was trained to see, if the file says it."""
        found = self.get(f"{self.architecture}.context_length")
        return found if isinstance(found, int) else None

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def get(self, name: str) -> Any:
        """A value; None where there is none of this name."""
        found = self.values.get(name)
        return None if found is None else found.content


def read_header(path: Path) -> Header:
    """The header of a GGUF file; ValueError for another file, or one of an older format."""
    with path.open("rb") as file:
        if len(head := file.read(24)) < 24:
            raise ValueError(f"{path}: not a GGUF file of version 2 or newer")
        magic, version, tensors, values = struct.unpack("<4sIQQ", head)
        if magic != b"GGUF" or version < 2:
            raise ValueError(f"{path}: not a GGUF file of version 2 or newer")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _read(content, tensors, values)
            except (struct.error, KeyError, IndexError, TypeError, ValueError, MemoryError, OverflowError) as error:
                raise ValueError(f"{path}: cannot be read as a GGUF file ({error})") from None


def _read(content: mmap.mmap, tensors: int, values: int) -> Header:
    at = 24
    found: dict[str, Value] = {}
    for _ in range(values):
        name, at = _string(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        found[name] = _value(content, at + 4, kind)
        at = found[name].end
    places = []
    for _ in range(tensors):
        name, at = _string(content, at)
        (axes,) = struct.unpack_from("<I", content, at)
        *shape, kind, offset = struct.unpack_from(f"<{axes}QIQ", content, at + 4)
        at += 16 + 8 * axes
        places.append((name, tuple(reversed(shape)), kind, offset))
    given = found.get("general.alignment")
    alignment = _ALIGNMENT if given is None else int(given.content)
    begin = -(-at // alignment) * alignment
    return Header(found, tuple(TensorPlace(n, shape, kind, begin + offset) for n, shape, kind, offset in places))


def _value(content: mmap.mmap, at: int, kind: int) -> Value:
    if kind == STRING:
        text, end = _string(content, at)
        return Value(kind, text, at, end)
    if kind == ARRAY:
        return _array(content, at)
    form = f"<{_FORMATS[kind]}"
    return Value(kind, struct.unpack_from(form, content, at)[0], at, at + struct.calcsize(form))


def _array(content: mmap.mmap, at: int) -> Value:
    inner, count = struct.unpack_from("<IQ", content, at)
    end = at + 12
    if inner in _FORMATS:
        form = f"<{min(count, _LONGEST)}{_FORMATS[inner]}"
        listed = struct.unpack_from(form, content, end)
        end += count * struct.calcsize(f"<{_FORMATS[inner]}")
        return Value(ARRAY, listed if count <= _LONGEST else count, at, end, inner)
    if inner == STRING:
        return Value(ARRAY, count, at, _after_strings(content, end, count), inner)
    for _ in range(count):
        end = _value(content, end, inner).end
    return Value(ARRAY, count, at, end, inner)


def _after_strings(content: mmap.mmap, at: int, count: int) -> int:
    """Where `count` strings end; there are hundreds of thousands in a vocabulary."""
    unpack = _LENGTH.unpack_from
    for _ in range(count):
        at += 8 + unpack(content, at)[0]
    return at


def _string(content: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(content, at)
    at += 8
    if at + length > len(content):
        raise ValueError("it ends within a string")
    return content[at : at + length].decode(), at + length
