"""Text from a file or from stdin, block by block, with what is wrong with it counted or refused."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from everlong.errors import InputError

_BLOCK_BYTES = 65536
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b")) + b"\x7f"
_CONTROL_SHARE = 0.05
_REPLACED, _GENUINE = "\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}".encode()


class TextSource(AbstractContextManager["TextSource"]):
    """The text of a file, or of stdin where the name is "-", as an iterator of pieces.

    Opened at once: InputError for a file that is missing, empty, not a file or not text. Line ends stay as
    they are; what is no UTF-8 becomes U+FFFD and is counted in `replaced`. `read_bytes` of `total_bytes`
    (None: not known) are read so far.
    """

    def __init__(self, name: str) -> None:
        self.name = "stdin" if name == "-" else name
        self.replaced, self.read_bytes = 0, 0
        self._file, self.total_bytes = _open(name)
        try:
            self._first = self._file.read(_BLOCK_BYTES)
            self._refuse_what_is_no_text(self._first)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        block, tail = self._first, b""
        while block:
            self._refuse_nul(block)
            self.read_bytes += len(block)
            text = decoder.decode(block)
            self.replaced += text.count(_REPLACED) - (tail + block).count(_GENUINE)
            tail = (tail + block)[-2:]
            yield text
            block = self._file.read(_BLOCK_BYTES)
        rest = decoder.decode(b"", final=True)
        self.replaced += len(rest)
        if rest:
            yield rest

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, if it is one."""
        if self.name != "stdin":
            self._file.close()

    def warning(self) -> str | None:
        """What to say about bytes that are no UTF-8, or None."""
        if not self.replaced:
            return None
        return f"{self.name}: {self.replaced:,} invalid UTF-8 sequences were replaced by U+FFFD"

    def _refuse_what_is_no_text(self, first: bytes) -> None:
        if not first:
            raise InputError(f"{self.name}: empty; give a file with text")
        self._refuse_nul(first)
        if len(first.translate(None, _CONTROL)) < (1 - _CONTROL_SHARE) * len(first):
            raise InputError(f"{self.name}: a binary file (control characters); give a file with text in UTF-8")

    def _refuse_nul(self, block: bytes) -> None:
        at = block.find(b"\0")
        if at >= 0:
            place = f"a NUL byte at offset {self.read_bytes + at:,}"
            raise InputError(f"{self.name}: a binary file ({place}); give a file with text in UTF-8")


def _open(name: str) -> tuple[Any, int | None]:
    """The open binary file and its size, if it has one."""
    if name == "-":
        return sys.stdin.buffer, None
    path = Path(name)
    try:
        file = path.open("rb")
        return file, path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}; give the path of a text file, or - for stdin") from None
