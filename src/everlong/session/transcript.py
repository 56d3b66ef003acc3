"""What a session read, token by token, and where in which source it stood: for citations and for reading again."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everlong.errors import CapabilityError, InputError
from everlong.session.places import Place

SOURCE, PROMPT, ANSWER = "text", "prompt", "answer"
"""What citations call a text without a name, a prompt, and what was written."""
GONE = "gone"
"""Stands for the digest of a source that was forgotten, or read anew since."""
MARK_TOKENS = 64
"""About every so many tokens the number of characters is noted down."""


@dataclass
class Source:
    """A text that was read: tokens from `first` on. `marks` are pairs (token, characters of the source before it).

    `places` are its chapters, headings and pages, as far as they were found.
    """

    name: str
    first: int
    digest: str = ""
    done: bool = False
    marks: list[tuple[int, int]] = field(default_factory=list)
    places: tuple[Place, ...] = ()


class Stretch(NamedTuple):
    """Tokens `first` .. `end - 1` of a stream."""

    first: int
    end: int


@dataclass(frozen=True)
class Passage:
    """Characters `start` .. `end - 1` of a source, and the text of them."""

    source: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Citation(Passage):
    """A passage, and its share of the attention that an answer gave to what is stored."""

    mass: float


class Transcript:
    """Ids and sources of a stream; 4 bytes a token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.ids = array("i")
        self.sources: list[Source] = []

    def begin(self, name: str, digest: str = "") -> Source:
        """Let what is added from now on belong to a new source."""
        self.sources.append(Source(name, len(self.ids), digest, marks=[(len(self.ids), 0)]))
        return self.sources[-1]

    def add(self, ids: Iterable[int], name: str) -> None:
        """Add tokens of the source `name`; of a new one, if the last source has another name."""
        source = self.sources[-1] if self.sources and self.sources[-1].name == name else self.begin(name)
        self.ids.extend(ids)
        if self._tokenizer is None:
            return
        token, chars = source.marks[-1]
        while len(self.ids) - token >= MARK_TOKENS:
            for end in range(token + MARK_TOKENS, min(len(self.ids), token + MARK_TOKENS + 8) + 1):
                text = self.text(token, end)
                if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                    break
            token, chars = end, chars + len(text)
            source.marks.append((token, chars))

    def copy(self) -> Transcript:
        """An independent transcript of the same."""
        other = Transcript(self._tokenizer)
        other.ids = self.ids[:]
        other.sources = [replace(s, marks=list(s.marks)) for s in self.sources]
        return other

    def state(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """Ids [n] int32, and the sources ready for JSON."""
        return torch.tensor(self.ids, dtype=torch.int32), [asdict(s) for s in self.sources]

    def load_state(self, ids: Tensor, sources: list[dict[str, Any]]) -> None:
        """Take a saved state."""
        self.ids = array("i", ids.tolist())
        self.sources = [
            Source(
                **s
                | {
                    "marks": [tuple(m) for m in s["marks"]],
                    "places": tuple(Place(**p) for p in s.get("places", ())),
                }
            )
            for s in sources
        ]

    def text(self, first: int, end: int) -> str:
        """The text of the tokens `first` .. `end - 1`, as they read behind the token before them."""
        before = list(self.ids[max(0, first - 1) : first])
        whole = self._decoded(before + list(self.ids[first:end]))
        return whole[len(self._decoded(before)) :] if before else whole

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def bounds(self, source: Source) -> tuple[int, int]:
        """First token of a source, and the one after its last."""
        after = [s.first for s in self.sources if s.first > source.first]
        return source.first, min(after, default=len(self.ids))

    def passages(self, first: int, end: int) -> list[Passage]:
        """Where the tokens `first` .. `end - 1` stand in the sources."""
        ends = [s.first for s in self.sources[1:]] + [len(self.ids)]
        found = []
        for source, after in zip(self.sources, ends, strict=True):
            a, b = max(first, source.first), min(end, after)
            if a < b:
                start = self._chars(source, a)
                text = self.text(a, b)
                found.append(Passage(source.name, start, start + len(text), text))
        return found

    def _chars(self, source: Source, token: int) -> int:
        mark, chars = max(m for m in source.marks if m[0] <= token)
        return chars + (len(self.text(mark, token)) if token > mark else 0)

    def chars(self, source: Source, token: int) -> int:
        """Characters of a source before `token`."""
        return self._chars(source, token)

    def tokens_of(self, source: Source, start: int, end: int) -> Stretch:
        """The tokens that hold the characters `start` .. `end - 1` of a source; InputError outside it."""
        if self._tokenizer is None:
            raise CapabilityError("characters: this session has no tokenizer to count them with; give tokens")
        first, after = self.bounds(source)
        low, high = source.marks[0][1], self._chars(source, after)
        if not low <= start < end <= high:
            raise InputError(
                f"source {source.name!r}: characters {start}:{end}, expected a start and a later end in {low}:{high}"
            )
        tokens = range(first, after)
        begin = bisect_right(tokens, start, key=lambda t: self._whole_chars(source, t)) - 1
        return Stretch(first + begin, first + bisect_left(tokens, end, key=lambda t: self._whole_chars(source, t)))

    def _whole_chars(self, source: Source, token: int) -> int:
        """Characters of a source that are complete before `token`."""
        mark, chars = max(m for m in source.marks if m[0] <= token)
        return chars + (len(self.text(mark, token).rstrip("\N{REPLACEMENT CHARACTER}")) if token > mark else 0)

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
                low, high = (self._chars(source, token) for token in (max(first, begin), min(end, after)))
                source.places = tuple(p for p in source.places if not _meets(p, low, high))
            if self._tokenizer is not None and end < after:
                source.marks = sorted({*source.marks, (end, self._chars(source, end))})
            if first <= begin and after <= end:
                source.digest, source.done = GONE, False
        self.ids[first:end] = array("i", [self.filler()]) * (end - first)


def _meets(place: Place, low: int, high: int) -> bool:
    """Whether the line of a heading lies in the characters `low` .. `high - 1`, in part at least."""
    return place.start < high and place.start + max(1, len(place.title)) > low
