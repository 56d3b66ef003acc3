"""Text from a file or from stdin, block by block, with what is wrong with it counted or refused."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from everlong.cli.charset import charset_of
from everlong.errors import InputError

_BLOCK_BYTES = 65536
_CONTROL = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1b")) + b"\x7f"
_CONTROL_CHARS = dict.fromkeys(_CONTROL)
_CONTROL_SHARE = 0.05
_MARK = "\ufeff"
_REPLACED = "\N{REPLACEMENT CHARACTER}"
_GENUINE = _REPLACED.encode()


class TextSource(AbstractContextManager["TextSource"]):
    """The text of a file, or of stdin where the name is "-", as an iterator of pieces.

    Opened at once: InputError for a file that is missing, empty, not a file or not text. Line ends stay as they are; a
    mark (BOM) at the beginning goes. `charset` is taken from the mark, else found (of stdin, in its first block), or
    `encoding`; what it has no character for becomes U+FFFD and is counted in `replaced`. `read_bytes` of `total_bytes`
    (None: not known) are read so far. `called` is the name in messages; of a file only the first `size` bytes are read.
    """

    def __init__(
        self, name: str, encoding: str | None = None, called: str | None = None, size: int | None = None
    ) -> None:
        self.name = called or ("stdin" if name == "-" else name)
        self.replaced = 0
        self.read_bytes = 0
        self._is_stdin = name == "-"
        self._left = sys.maxsize if size is None else size
        self._file, self.total_bytes = _open(name)
        try:
            self._first = self._read()
            self._refuse_rtf()
            self.charset = charset_of(self._blocks(), encoding)
            if self.total_bytes is not None:
                self._file.seek(len(self._first))
                self._left = (sys.maxsize if size is None else size) - len(self._first)
            self._refuse_what_is_no_text()
        except OSError as error:
            self.close()
            raise InputError(f"{self.name}: {error.strerror or error}; give a file that can be read") from None
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.charset.codec)("replace")
        block = self._first
        tail = b""
        begun = False
        while block:
            self._refuse_nul(block)
            self.read_bytes += len(block)
            text = decoder.decode(block)
            genuine = (tail + block).count(_GENUINE) if self.charset.codec == "utf-8" else 0
            self.replaced += text.count(_REPLACED) - genuine
            tail = (tail + block)[-2:]
            yield from self._told(text if begun else text.removeprefix(_MARK))
            begun = begun or bool(text)
            block = self._read()
        rest = decoder.decode(b"", final=True)
        self.replaced += rest.count(_REPLACED)
        yield from self._told(rest)

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if it is one."""
        if not self._is_stdin:
            self._file.close()

    def chars(self, size: int) -> int:
        """How many characters the first `size` bytes of a file are, in this charset."""
        self._file.seek(0)
        decoder = codecs.getincrementaldecoder(self.charset.codec)("replace")
        found = 0
        begun = False
        while size and (block := self._file.read(min(_BLOCK_BYTES, size))):
            size -= len(block)
            text = decoder.decode(block, final=not size)
            found += len(text if begun else text.removeprefix(_MARK))
            begun = begun or bool(text)
        return found

    def warnings(self) -> list[str]:
        """What to say about the encoding, and about bytes that are no text in it."""
        said = [self.charset.told] if self.charset.told else []
        if self.replaced:
            name = "UTF-8" if self.charset.codec == "utf-8" else self.charset.codec
            said.append(f"{self.replaced:,} invalid {name} sequences were replaced by U+FFFD")
        return said

    def _blocks(self) -> Iterator[bytes]:
        """The blocks of a file; the first one of stdin, which cannot be read twice."""
        yield self._first
        while self.total_bytes is not None and (block := self._read()):
            yield block

    def _read(self) -> bytes:
        """The next block of the bytes that are wanted."""
        block = self._file.read(min(_BLOCK_BYTES, self._left))
        self._left -= len(block)
        return block

    def _told(self, text: str) -> Iterator[str]:
        """A piece of text that is not empty; InputError where it holds what no text in a wide encoding does."""
        if self.charset.is_wide and "\0" in text:
            raise InputError(f"{self.name}: a binary file (zeros in it); give a file with text, or --encoding")
        if text:
            yield text

    def _refuse_what_is_no_text(self) -> None:
        if not self._first:
            raise InputError(f"{self.name}: empty; give a file with text")
        self._refuse_nul(self._first)
        text = self._first.decode(self.charset.codec, "replace")
        if len(text.translate(_CONTROL_CHARS)) < (1 - _CONTROL_SHARE) * len(text):
            raise InputError(f"{self.name}: a binary file (control characters); give a file with text")

    def _refuse_rtf(self) -> None:
        if self._first.startswith(b"{\\rtf"):
            raise InputError(f"{self.name}: rich text (RTF), which is not read; save it as .docx, .odt or .txt")

    def _refuse_nul(self, block: bytes) -> None:
        at = -1 if self.charset.is_wide else block.find(b"\0")
        if at >= 0:
            place = f"a NUL byte at offset {self.read_bytes + at:,}"
            raise InputError(f"{self.name}: a binary file ({place}); give a file with text")


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
