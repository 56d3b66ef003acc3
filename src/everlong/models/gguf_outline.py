"""The configuration and the tokenizer of a GGUF file, as transformers reads them, without its seconds of reading.

transformers makes an object of each token, score and merge several times over before it looks at the few values that a
configuration is made of. It is given a small file in its place, an outline: the same values without the vocabulary, and
the names of the tensors.
"""

from __future__ import annotations

import logging
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everlong.models.gguf_header import ARRAY, STRING, Header, Value

logger = logging.getLogger(__name__)

_UINT32 = 4
_TOKENS = "tokenizer.ggml.tokens"
_OF_TOKENS = (_TOKENS, "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_WIDTHS = {4: 4, 5: 4, 6: 4}
_FEW = 512
_FILE = "outline.gguf"


def read_config(path: Path, header: Header) -> Any:
    """The model's configuration."""
    from transformers import AutoConfig

    try:
        with _outline(path, header, _without_vocabulary(path, header)) as small:
            return AutoConfig.from_pretrained(small.parent, gguf_file=small.name)
    except Exception as error:  # noqa: BLE001 (an architecture that wants more than the outline has)
        logger.debug("%s: its configuration is read from the whole file (%s)", path, error)
    return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)


def read_tokenizer(path: Path, header: Header) -> Any:
    """The tokenizer: its class found by a few tokens, then made of all of them."""
    from transformers import AutoTokenizer

    try:
        with _outline(path, header, _with_few_tokens(path, header)) as small:
            kind: Any = type(AutoTokenizer.from_pretrained(small.parent, gguf_file=small.name))
        return kind.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # noqa: BLE001 (a vocabulary that is none without its special tokens)
        logger.debug("%s: its tokenizer is read from the whole file (%s)", path, error)
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@contextmanager
def _outline(path: Path, header: Header, values: dict[str, bytes]) -> Iterator[Path]:
    """A GGUF file of these values (type and content) whose tensors, of the same names, are one number each."""
    with tempfile.TemporaryDirectory(prefix="everlong-") as folder:
        parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(header.tensors), len(values))]
        parts += [_named(name) + value for name, value in values.items()]
        parts += [_named(tensor.name) + struct.pack("<IQIQ", 1, 1, 0, 0) for tensor in header.tensors]
        size = sum(len(part) for part in parts)
        alignment = int(header.get("general.alignment") or 32)
        parts.append(bytes(-size % alignment + alignment))
        small = Path(folder) / _FILE
        small.write_bytes(b"".join(parts))
        yield small


def _without_vocabulary(path: Path, header: Header) -> dict[str, bytes]:
    """Values for the configuration: of the vocabulary, its size."""
    found = dict(_short(path, header))
    tokens = header.get(_TOKENS)
    if tokens is not None:
        count = struct.pack("<II", _UINT32, tokens if isinstance(tokens, int) else len(tokens))
        found[_TOKENS] = count
        found.setdefault(f"{header.architecture}.vocab_size", count)
    return found


def _with_few_tokens(path: Path, header: Header) -> dict[str, bytes]:
    """Values for the tokenizer's class: a few tokens, none of them special."""
    found = {name: value for name, value in _short(path, header) if not name.startswith("tokenizer.")}
    with path.open("rb") as file:
        for name, value in header.values.items():
            if name in _OF_TOKENS:
                found[name] = _first_of(file, value)
            elif name in ("tokenizer.ggml.model", "tokenizer.ggml.pre"):
                found[name] = _whole(file, value)
            elif name == "tokenizer.ggml.merges":
                found[name] = struct.pack("<IIQ", ARRAY, STRING, 0)
    return found


def _short(path: Path, header: Header) -> Iterator[tuple[str, bytes]]:
    """All values but those of long arrays."""
    with path.open("rb") as file:
        for name, value in header.values.items():
            if value.kind != ARRAY or isinstance(value.content, tuple):
                yield name, _whole(file, value)


def _whole(file: Any, value: Value) -> bytes:
    file.seek(value.start)
    return struct.pack("<I", value.kind) + file.read(value.end - value.start)


def _first_of(file: Any, value: Value) -> bytes:
    """The first values of an array of strings or of four bytes each."""
    file.seek(value.start)
    inner, count = struct.unpack("<IQ", file.read(12))
    count = min(count, _FEW)
    if inner != STRING:
        content = file.read(count * _WIDTHS[inner])
    else:
        content = b""
        for _ in range(count):
            length = file.read(8)
            content += length + file.read(*struct.unpack("<Q", length))
    return struct.pack("<IIQ", ARRAY, inner, count) + content


def _named(name: str) -> bytes:
    encoded = name.encode()
    return struct.pack("<Q", len(encoded)) + encoded
