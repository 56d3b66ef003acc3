"""Which characters of a source its tokens are, and their text: by the lengths that were kept, else by decoding."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from everlong.text.detokenize import Detokenizer
from everlong.text.offsets import UNKNOWN, WIDE, Rows, shared_of, whole_width

MARK_TOKENS = 64
"""About every so many tokens the number of characters is noted down."""
_LOOK_AHEAD_TOKENS = 8
"""How many tokens a character may have: so far on a place between two characters is looked for."""


class Offset(NamedTuple):
    """How many characters of a source end before a token, and of how many of them the token holds a part."""

    chars: int
    shared: int

    @property
    def begins(self) -> int:
        """The first character that the token holds a part of."""
        return self.chars - self.shared


@dataclass(frozen=True)
class Characters:
    """The characters of one source: of the tokens `first` .. `after - 1` of a stream.

    `ids` and `lengths` (a byte for each, as `offsets.packed` gives it) are those of the whole stream; `marks` are the
    source's, pairs (token, characters of the source before it).
    """

    ids: array[int]
    lengths: bytearray
    detokenizer: Detokenizer
    marks: list[tuple[int, int]]
    first: int
    after: int

    def at(self, token: int) -> Offset:
        """Where a token stands, or the end of the source for `after`."""
        mark, chars = self.marks[self._mark(token)]
        codes = self.lengths[mark:token]
        if UNKNOWN in codes:
            return self._decoded_at(token)
        shared = shared_of(self.lengths[token]) if token < self.after else 0
        return Offset(chars + whole_width(codes), shared)

    def tokens(self, start: int, end: int) -> tuple[int, int]:
        """The tokens that hold the characters `start` .. `end - 1`: the first of them, and the one after the last."""
        tokens = range(self.first, self.after)
        begin = bisect_right(tokens, start, key=lambda t: self.at(t).chars) - 1
        stop = self.first + bisect_left(tokens, end, key=lambda t: self.at(t).chars)
        while stop < self.after and self.at(stop).begins < end:
            stop += 1
        return self.first + begin, stop

    def text(self, first: int, last: int, start: int, end: int) -> str:
        """The text of the tokens `first` .. `last - 1`, which are the characters `start` .. `end - 1`."""
        while first > self.first and self.at(first).shared:
            first -= 1
        while last < self.after and self.at(last).shared:
            last += 1
        marks = self.marks[self._mark(first) + 1 : self._mark(last) + 1]
        cuts = [first, *(t for t, _ in marks if t < last and not self.at(t).shared), last]
        text = "".join(self._between(a, b) for a, b in pairwise(cuts))
        begin = self.at(first).chars
        exact = len(text) == self.at(last).chars - begin
        return text[start - begin : end - begin] if exact else text

    def decoded_marks(self) -> Iterator[tuple[int, int]]:
        """The marks that are due behind the last, where the characters are those of the decoded text."""
        token, chars = self.marks[-1]
        while self.after - token >= MARK_TOKENS + _LOOK_AHEAD_TOKENS:
            for end in range(token + MARK_TOKENS, token + MARK_TOKENS + _LOOK_AHEAD_TOKENS + 1):
                text = self._behind(token, end)
                if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                    break
            token = end
            chars = chars + len(text)
            yield token, chars

    def _mark(self, token: int) -> int:
        """The number of the last mark at or before `token`."""
        return bisect_right(self.marks, token, key=lambda mark: mark[0]) - 1

    def _decoded_at(self, token: int) -> Offset:
        """The same by the decoded text: an unfinished character counts, and is shared by what is behind it."""
        n = self._mark(token)
        mark, chars = self.marks[n]
        end = self.marks[n + 1][0] if n + 1 < len(self.marks) else self.after
        whole = self._behind(mark, end)
        text = self._behind(mark, token)
        same = next(
            (n for n, (a, b) in enumerate(zip(whole, text, strict=False)) if a != b), min(len(whole), len(text))
        )
        if same == len(text):
            return Offset(chars + same, 0)
        # Broken bytes may undo good ones before them: what was whole some tokens ago counts too.
        earlier = (self._behind(mark, t) for t in range(token - 1, max(mark, token - _LOOK_AHEAD_TOKENS), -1))
        before = next((len(text) for text in earlier if whole.startswith(text)), 0)
        return Offset(chars + max(same, before) + 1, 1)

    def _between(self, first: int, end: int) -> str:
        """The text of tokens with whole characters; where it is not as long as it should be, character by character."""
        text = self._behind(first, end)
        ids = self._visible(first, end)
        # A space that decoding leaves out at a beginning, and one that it puts in later, would make the length right.
        bare = not self._before(first) and bool(ids) and self.detokenizer.begins_with_space(ids[0])
        if len(text) == self.at(end).chars - self.at(first).chars and not bare:
            return text
        offsets = [self.at(t) for t in range(first, end + 1)]
        cuts = [n for n, offset in enumerate(offsets) if not n or not offset.shared or n == end - first]
        pairs = pairwise(cuts)
        return "".join(self._fitted(first + a, first + b, offsets[b].chars - offsets[a].chars) for a, b in pairs)

    def _fitted(self, first: int, end: int, chars: int) -> str:
        """The text of a few tokens, which are `chars` characters, with as many spaces in front as there were."""
        text = self._behind(first, end)
        ids = self._visible(first, end)
        if len(text) == chars - 1 and ids and self.detokenizer.begins_with_space(ids[0]):
            return " " + text
        # Some tokenizers put a space between what was fed apart.
        return text[max(0, len(text) - chars) :]

    def _behind(self, first: int, end: int) -> str:
        """The text of the tokens `first` .. `end - 1` as it reads behind the tokens of the source before them."""
        return self.detokenizer.text(self._visible(first, end), self._before(first))

    def _before(self, first: int) -> list[int]:
        """The ids of the source in front of token `first`, as many as may change how it reads."""
        return self._visible(max(self.first, first - _LOOK_AHEAD_TOKENS), first)

    def _visible(self, first: int, end: int) -> list[int]:
        """The ids `first` .. `end - 1` without special tokens that stand for no text of the source."""
        special = self.detokenizer.special
        return [
            token
            for token, code in zip(self.ids[first:end], self.lengths[first:end], strict=True)
            if token not in special or code not in (0, UNKNOWN)
        ]


def new_marks(rows: Rows, first: int, chars: int, last: int) -> Iterator[tuple[int, int]]:
    """The marks within new tokens, which are number `first` and on, behind `chars` characters and a mark at `last`."""
    ends = chars + np.concatenate([[0], np.cumsum(rows[:, 1])])
    whole = first + np.flatnonzero(rows[:, 2] == 0)
    wide = first + 1 + np.flatnonzero(rows[:, 1] >= WIDE)
    while True:
        due = whole[np.searchsorted(whole, last + MARK_TOKENS) :][:1]
        found = np.concatenate([due, wide[np.searchsorted(wide, last, side="right") :][:1]])
        if not len(found):
            return
        last = int(found.min())
        yield last, int(ends[last - first])
