"""Where the lines of a text begin, noted down while it streams by, so that what is cited has its line in the file."""

from __future__ import annotations

import base64
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

_RETURN = re.compile("\r")
_FEED = re.compile("\n")


class Lines:
    """The line ends of a text: its line feeds, or (where it has none at all) its carriage returns.

    As editors and `grep -n` count: a file with CRLF has as many lines as one with LF.
    """

    def __init__(self) -> None:
        self._starts = array("q")
        self._chars = 0
        self._has_feeds = False

    def through(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts; where their lines begin is noted as they go by."""
        self.__init__()
        for text in texts:
            self._add(text)
            yield text

    def _add(self, text: str) -> None:
        if not self._has_feeds and "\n" in text:
            self._has_feeds, self._starts = True, array("q")
        end = _FEED if self._has_feeds else _RETURN
        self._starts.extend(self._chars + found.end() for found in end.finditer(text))
        self._chars += len(text)

    def packed(self, begin: int = 0) -> str:
        """What `line_at` takes, for the characters from `begin` on."""
        first = bisect_right(self._starts, begin)
        starts = self._starts[first:]
        steps = array("q", (b - a for a, b in zip([begin, *starts], starts, strict=False)))
        return base64.b64encode(zlib.compress(array("q", [1 + first, begin, *steps]).tobytes())).decode()


def line_at(packed: str, char: int) -> int | None:
    r"""The number of the line (from 1) that has the character; None where that was not noted down.

    >>> lines = Lines()
    >>> _ = list(lines.through(["one\r\ntwo\r", "\nthree"]))
    >>> [line_at(lines.packed(), char) for char in (0, 4, 5, 9, 10)], line_at(lines.packed(begin=5), 11)
    ([1, 1, 2, 2, 3], 3)
    """
    if not packed:
        return None
    found = array("q")
    found.frombytes(zlib.decompress(base64.b64decode(packed)))
    line, begin, *steps = found
    if char < begin:
        return None
    starts = array("q")
    for step in steps:
        begin += step
        starts.append(begin)
    return line + bisect_right(starts, char)
