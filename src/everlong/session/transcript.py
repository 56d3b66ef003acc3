"""What a session read, token by token, and where in which source it stood: for citations and for reading again."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from everlong.errors import CapabilityError, InputError
from everlong.session.detokenize import Detokenizer
from everlong.session.offsets import UNKNOWN, WIDE, Rows, packed, plain_rows, shared_of, width_of
from everlong.session.places import Place

SOURCE, PROMPT, ANSWER = "text", "prompt", "answer"
"""What citations call a text without a name, a prompt, and what was written."""
GONE = "gone"
"""Stands for the digest of a source that was forgotten, or read anew since."""
MARK_TOKENS = 64
"""About every so many tokens the number of characters is noted down."""
_LOOK_AHEAD_TOKENS = 8
"""How many tokens a character may have: so far on a place between two characters is looked for."""


@dataclass
class Source:
    """A text that was read: tokens from `first` on. `marks` are pairs (token, characters of the source before it).

    A mark stands before a token that begins with a character of its own; the first one before the first token.
    `places` are its chapters, headings and pages, as far as they were found.
    """

    name: str
    first: int
    digest: str = ""
    done: bool = False
    marks: list[tuple[int, int]] = field(default_factory=list)
    places: tuple[Place, ...] = ()


class Offset(NamedTuple):
    """How many characters of a source end before a token, and of how many of them the token holds a part."""

    chars: int
    shared: int


class Stretch(NamedTuple):
    """Tokens `first` .. `end - 1` of a stream."""

    first: int
    end: int


@dataclass(frozen=True)
class Passage:
    """Characters `start` .. `end - 1` of a source, and the text of them.

    `start` and `end` count in the text that was given to be read. `text` is decoded from the tokens: where the
    tokenizer changes its text (Unicode forms, upper case, white space, unknown characters), it reads as the model saw
    it, and its length may differ.
    """

    source: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Citation(Passage):
    """A passage that an answer can be checked against, and how much of the evidence points to it (`mass`, 0 to 1).

    `sentence` is the part of the passage that stands out, where that is known.
    """

    mass: float
    sentence: str = ""


class Transcript:
    """Ids, characters and sources of a stream; 5 bytes a token and a mark for about every 64."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.ids = array("i")
        self.lengths = bytearray()
        """For each token the byte that `offsets.packed` gives."""
        self.sources: list[Source] = []
        self._detokenizer = Detokenizer(tokenizer)

    def begin(self, name: str, digest: str = "") -> Source:
        """Let what is added from now on belong to a new source."""
        self.sources.append(Source(name, len(self.ids), digest, marks=[(len(self.ids), 0)]))
        return self.sources[-1]

    def add(self, ids: Iterable[int], name: str, rows: Rows | None = None) -> None:
        """Add tokens of the source `name`; of a new one, if the last source has another name.

        `rows` [n, 3] say for which characters of the source they stand (offsets.py); without them, or where a width is
        -1, for those of their decoded text.
        """
        source = self.sources[-1] if self.sources and self.sources[-1].name == name else self.begin(name)
        rows = plain_rows(list(ids), width=-1) if rows is None else rows
        known = rows[:, 1] >= 0
        for part in np.split(rows, np.flatnonzero(known[1:] != known[:-1]) + 1) if len(rows) else ():
            self._add(source, part)

    def _add(self, source: Source, rows: Rows) -> None:
        """Add tokens that all have a width, or all have none. The ids come last: an interrupt leaves what it was."""
        first = len(self.ids)
        measured = rows[0, 1] >= 0
        del self.lengths[first:]
        while source.marks[-1][0] > first:
            source.marks.pop()
        # A run of tokens between two marks is counted in one way.
        turns = source.marks[-1][0] < first and measured == (self.lengths[first - 1] == UNKNOWN)
        if turns and self._tokenizer is not None:
            source.marks.append((first, self._offset(source, first).chars))
        if measured:
            begin = self._offset(source, first).chars
            source.marks += _new_marks(rows, first, begin, source.marks[-1][0])
        self.lengths += packed(rows)
        self.ids.extend(rows[:, 0].tolist())
        if not measured and self._tokenizer is not None:
            self._mark_decoded(source)

    def _mark_decoded(self, source: Source) -> None:
        """Set the marks that are due where the characters are those of the decoded text."""
        token, chars = source.marks[-1]
        while len(self.ids) - token >= MARK_TOKENS + _LOOK_AHEAD_TOKENS:
            for end in range(token + MARK_TOKENS, token + MARK_TOKENS + _LOOK_AHEAD_TOKENS + 1):
                text = self._behind(source, token, end)
                if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                    break
            token, chars = end, chars + len(text)
            source.marks.append((token, chars))

    def copy(self) -> Transcript:
        """An independent transcript of the same."""
        other = Transcript(self._tokenizer)
        other.ids = self.ids[:]
        other.lengths = self.lengths[:]
        other.sources = [replace(s, marks=list(s.marks)) for s in self.sources]
        return other

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """The tensors ids [n] int32 and lengths [n] uint8, and the sources ready for JSON."""
        lengths = torch.from_numpy(np.frombuffer(bytes(self.lengths), dtype=np.uint8).copy())
        return {"ids": torch.tensor(self.ids, dtype=torch.int32), "lengths": lengths}, [asdict(s) for s in self.sources]

    def load_state(self, tensors: dict[str, Tensor], sources: list[dict[str, Any]]) -> None:
        """Take a saved state; one without lengths counts the characters between marks by decoding."""
        self.load_ids(array("i", tensors["ids"].tolist()))
        if "lengths" in tensors:
            self.lengths = bytearray(tensors["lengths"].numpy().tobytes())
        self.sources = [_source(s) for s in sources]

    def load_ids(self, ids: array[int], lengths: Iterable[tuple[int, bytes]] = ()) -> None:
        """Take these ids, and of them the lengths that are given as (first token, bytes)."""
        self.ids = ids
        self.lengths = bytearray([UNKNOWN]) * len(ids)
        for first, data in lengths:
            kept = data[: max(0, len(ids) - first)]
            self.lengths[first : first + len(kept)] = kept

    def text(self, first: int, end: int) -> str:
        """The text of the tokens `first` .. `end - 1`, the characters that they hold a part of included."""
        return "".join(passage.text for passage in self.passages(first, end))

    def rows(self, source: Source, first: int, end: int) -> Rows:
        """The tokens `first` .. `end - 1` of a source with their characters, as `add` takes them."""
        rows = plain_rows(self.ids[first:end])
        for n, code in enumerate(self.lengths[first:end]):
            rows[n, 1:] = (-1, 0) if code == UNKNOWN else (width_of(code), shared_of(code))
            if rows[n, 1] == WIDE:
                rows[n, 1] = self._offset(source, first + n + 1).chars - self._offset(source, first + n).chars
        return rows

    def bounds(self, source: Source) -> tuple[int, int]:
        """First token of a source, and the one after its last."""
        after = [s.first for s in self.sources if s.first > source.first]
        return source.first, min(after, default=len(self.ids))

    def passages(self, first: int, end: int) -> list[Passage]:
        """Where the tokens `first` .. `end - 1` stand in the sources; characters in full that they hold a part of."""
        ends = [s.first for s in self.sources[1:]] + [len(self.ids)]
        found = []
        for source, after in zip(self.sources, ends, strict=True):
            a, b = max(first, source.first), min(end, after)
            if a < b:
                start, stop = _begins(self._offset(source, a, after)), self._offset(source, b, after).chars
                found.append(Passage(source.name, start, stop, self._text(source, Stretch(a, b), after, start, stop)))
        return found

    def _text(self, source: Source, tokens: Stretch, after: int, start: int, end: int) -> str:
        """The text of tokens of a source, which are its characters `start` .. `end - 1`."""
        first, last = tokens
        while first > source.first and self._offset(source, first, after).shared:
            first -= 1
        while last < after and self._offset(source, last, after).shared:
            last += 1
        marks = source.marks[_at(source, first) + 1 : _at(source, last) + 1]
        cuts = [first, *(t for t, _ in marks if t < last and not self._offset(source, t, after).shared), last]
        text = "".join(self._between(source, a, b, after) for a, b in pairwise(cuts))
        begin = self._offset(source, first, after).chars
        exact = len(text) == self._offset(source, last, after).chars - begin
        return text[start - begin : end - begin] if exact else text

    def _between(self, source: Source, first: int, end: int, after: int) -> str:
        """The text of tokens with whole characters; where it is not as long as it should be, character by character."""
        text = self._behind(source, first, end)
        if len(text) == self._offset(source, end, after).chars - self._offset(source, first, after).chars:
            return text
        offsets = [self._offset(source, t, after) for t in range(first, end + 1)]
        cuts = [n for n, offset in enumerate(offsets) if not n or not offset.shared or n == end - first]
        pairs = pairwise(cuts)
        return "".join(
            self._fitted(source, first + a, first + b, offsets[b].chars - offsets[a].chars) for a, b in pairs
        )

    def _fitted(self, source: Source, first: int, end: int, chars: int) -> str:
        """The text of a few tokens, which are `chars` characters, with as many spaces in front as there were."""
        text, ids = self._behind(source, first, end), self._visible(first, end)
        if len(text) == chars - 1 and ids and self._detokenizer.begins_with_space(ids[0]):
            return " " + text
        # Some tokenizers put a space between what was fed apart.
        return text[max(0, len(text) - chars) :]

    def _behind(self, source: Source, first: int, end: int) -> str:
        """The text of the tokens `first` .. `end - 1` as it reads behind the tokens of the source before them."""
        before = self._visible(max(source.first, first - _LOOK_AHEAD_TOKENS), first)
        return self._detokenizer.text(self._visible(first, end), before)

    def _visible(self, first: int, end: int) -> list[int]:
        """The ids `first` .. `end - 1` without special tokens that stand for no text of the source."""
        special = self._detokenizer.special
        return [
            token
            for token, code in zip(self.ids[first:end], self.lengths[first:end], strict=True)
            if token not in special or code not in (0, UNKNOWN)
        ]

    def _offset(self, source: Source, token: int, after: int | None = None) -> Offset:
        """Where `token` stands in `source`, whose last token is the one before `after`."""
        after = self.bounds(source)[1] if after is None else after
        mark, chars = source.marks[_at(source, token)]
        codes = self.lengths[mark:token]
        if UNKNOWN in codes:
            return self._decoded_offset(source, token, after)
        shared = shared_of(self.lengths[token]) if token < after else 0
        return Offset(chars + sum(map(width_of, codes)), shared)

    def _decoded_offset(self, source: Source, token: int, after: int) -> Offset:
        """The same by the decoded text: an unfinished character counts, and is shared by what is behind it."""
        at = _at(source, token)
        mark, chars = source.marks[at]
        end = source.marks[at + 1][0] if at + 1 < len(source.marks) else after
        whole = self._behind(source, mark, end)
        text = self._behind(source, mark, token)
        same = next(
            (n for n, (a, b) in enumerate(zip(whole, text, strict=False)) if a != b), min(len(whole), len(text))
        )
        if same == len(text):
            return Offset(chars + same, 0)
        # Broken bytes may undo good ones before them: what was whole some tokens ago counts too.
        earlier = (self._behind(source, mark, t) for t in range(token - 1, max(mark, token - _LOOK_AHEAD_TOKENS), -1))
        before = next((len(text) for text in earlier if whole.startswith(text)), 0)
        return Offset(chars + max(same, before) + 1, 1)

    def chars(self, source: Source, token: int) -> int:
        """Characters of a source before `token`."""
        return self._offset(source, token).chars

    def tokens_of(self, source: Source, start: int, end: int) -> Stretch:
        """The tokens that hold the characters `start` .. `end - 1` of a source; InputError outside it."""
        if self._tokenizer is None:
            raise CapabilityError("characters: this session has no tokenizer to count them with; give tokens")
        first, after = self.bounds(source)
        low, high = source.marks[0][1], self._offset(source, after, after).chars
        if not low <= start < end <= high:
            raise InputError(
                f"source {source.name!r}: characters {start}:{end}, expected a start and a later end in {low}:{high}"
            )
        tokens = range(first, after)
        begin = bisect_right(tokens, start, key=lambda t: self._offset(source, t, after).chars) - 1
        stop = first + bisect_left(tokens, end, key=lambda t: self._offset(source, t, after).chars)
        while stop < after and _begins(self._offset(source, stop, after)) < end:
            stop += 1
        return Stretch(first + begin, stop)

    def filler(self) -> int:
        """The id that stands where one was forgotten: a special token, which no text shows."""
        special = [] if self._tokenizer is None else self._tokenizer.all_special_ids
        return int(special[0]) if special else 0

    def forget(self, first: int, end: int) -> None:
        """Put the filler in the place of the ids `first` .. `end - 1`; what comes after keeps its characters."""
        for source in self.sources:
            begin, after = self.bounds(source)
            if begin >= end or after <= first or begin == after:
                continue
            if source.places:
                source.places = self._places_left(source, Stretch(max(begin, first), min(end, after)), after)
            if self._tokenizer is not None:
                ends = [(t, self._offset(source, t, after).chars) for t in (max(begin, first), min(end, after))]
                source.marks = sorted({*source.marks, *ends})
            if first <= begin and after <= end:
                source.digest, source.done = GONE, False
        self.ids[first:end] = array("i", [self.filler()]) * (end - first)
        self.lengths[first:end] = bytes(end - first)

    def _places_left(self, source: Source, gone: Stretch, after: int) -> tuple[Place, ...]:
        """The places of a source whose titles lie in none of the tokens `gone`."""
        if self._tokenizer is None:
            # Where titles stand cannot be told here, and none of what is forgotten may stay.
            return ()
        low, high = _begins(self._offset(source, gone.first, after)), self._offset(source, gone.end, after).chars
        return tuple(p for p in source.places if not _meets(p, low, high))


def _source(saved: dict[str, Any]) -> Source:
    """A source as `state` gave it; one that was saved before there were places has none."""
    marks = [(token, chars) for token, chars in saved["marks"]]
    places = tuple(Place(**place) for place in saved.get("places", ()))
    return Source(**saved | {"marks": marks, "places": places})


def _meets(place: Place, low: int, high: int) -> bool:
    """Whether the line of a heading lies in the characters `low` .. `high - 1`, in part at least."""
    return place.start < high and place.start + max(1, len(place.title)) > low


def _at(source: Source, token: int) -> int:
    """The number of the last mark at or before `token`."""
    return bisect_right(source.marks, token, key=lambda mark: mark[0]) - 1


def _begins(offset: Offset) -> int:
    """The first character that a token holds a part of."""
    return offset.chars - offset.shared


def _new_marks(rows: Rows, first: int, chars: int, last: int) -> Iterator[tuple[int, int]]:
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
