"""What a session read, token by token, and where in which source it stood: for citations and for reading again."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from everlong.errors import CapabilityError, InputError
from everlong.text.characters import Characters, new_marks
from everlong.text.detokenize import Detokenizer
from everlong.text.offsets import UNKNOWN, WIDE, Rows, packed, plain_rows, shared_of, width_of
from everlong.text.places import Place

SOURCE = "text"
PROMPT = "prompt"
ANSWER = "answer"
"""What citations call a text without a name, a prompt, and what was written."""
GONE = "gone"
"""Stands for the digest of a source that was forgotten, or read anew since."""


@dataclass
class Source:
    """A text that was read: tokens from `first` on. `marks` are pairs (token, characters of the source before it).

    A mark stands before a token that begins with a character of its own; the first one before the first token.
    `places` are its chapters, headings and pages, as far as they were found; `lines` says where its lines begin
    (lines.py), where it has any.
    """

    name: str
    first: int
    digest: str = ""
    done: bool = False
    marks: list[tuple[int, int]] = field(default_factory=list)
    places: tuple[Place, ...] = ()
    lines: str = ""


class TokenRange(NamedTuple):
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

    `sentence` is the whole sentence that stands out, where that is known. `name` is the source's shortest name in its
    session; `page`, `chapter`, `heading` and `line` (of the file that was read, from 1) are those of the sentence, or
    else of where the passage begins; None where there are none.
    """

    mass: float
    sentence: str = ""
    name: str = ""
    page: int | None = None
    chapter: str | None = None
    heading: str | None = None
    line: int | None = None


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

    def add(self, ids: Sequence[int], name: str, rows: Rows | None = None) -> None:
        """Add tokens of the source `name`; of a new one, if the last source has another name.

        `rows` [n, 3] say for which characters of the source they stand (offsets.py); without them, or where a width is
        -1, for those of their decoded text.
        """
        source = self.sources[-1] if self.sources and self.sources[-1].name == name else self.begin(name)
        if rows is None:
            self._add(source, ids, None)
            return
        known = rows[:, 1] >= 0
        for part in np.split(rows, np.flatnonzero(known[1:] != known[:-1]) + 1) if len(rows) else ():
            self._add(source, part[:, 0].tolist(), part if part[0, 1] >= 0 else None)

    def _add(self, source: Source, ids: Sequence[int], rows: Rows | None) -> None:
        """Add tokens with their rows, which all have a width; None where none has one.

        The ids come last: an interrupt leaves what it was.
        """
        first = len(self.ids)
        measured = rows is not None
        del self.lengths[first:]
        while source.marks[-1][0] > first:
            source.marks.pop()
        # A run of tokens between two marks is counted in one way.
        turns = source.marks[-1][0] < first and measured == (self.lengths[first - 1] == UNKNOWN)
        if turns and self._tokenizer is not None:
            source.marks.append((first, self.chars(source, first)))
        if rows is not None:
            begin = self.chars(source, first)
            source.marks += new_marks(rows, first, begin, source.marks[-1][0])
        self.lengths += bytes([UNKNOWN]) * len(ids) if rows is None else packed(rows)
        self.ids.extend(ids)
        if not measured and self._tokenizer is not None:
            source.marks.extend(self._characters(source).decoded_marks())

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
        characters = self._characters(source)
        for n, code in enumerate(self.lengths[first:end]):
            rows[n, 1:] = (-1, 0) if code == UNKNOWN else (width_of(code), shared_of(code))
            if rows[n, 1] == WIDE:
                rows[n, 1] = characters.at(first + n + 1).chars - characters.at(first + n).chars
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
            a = max(first, source.first)
            b = min(end, after)
            if a < b:
                characters = self._characters(source, after)
                start = characters.at(a).begins
                stop = characters.at(b).chars
                found.append(Passage(source.name, start, stop, characters.text(a, b, start, stop)))
        return found

    def chars(self, source: Source, token: int) -> int:
        """Characters of a source before `token`."""
        return self._characters(source).at(token).chars

    def _characters(self, source: Source, after: int | None = None) -> Characters:
        """The characters of a source, whose last token is the one before `after`."""
        after = self.bounds(source)[1] if after is None else after
        return Characters(self.ids, self.lengths, self._detokenizer, source.marks, source.first, after)

    def tokens_of(self, source: Source, start: int, end: int) -> TokenRange:
        """The tokens that hold the characters `start` .. `end - 1` of a source; InputError outside it."""
        if self._tokenizer is None:
            raise CapabilityError("characters: this session has no tokenizer to count them with; give tokens")
        characters = self._characters(source)
        low = source.marks[0][1]
        high = characters.at(characters.after).chars
        if not low <= start < end <= high:
            raise InputError(
                f"source {source.name!r}: characters {start}:{end}, expected a start and a later end in {low}:{high}"
            )
        return TokenRange(*characters.tokens(start, end))

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
            gone = TokenRange(max(begin, first), min(end, after))
            characters = self._characters(source, after)
            if source.places:
                source.places = self._places_left(source.places, gone, characters)
            if self._tokenizer is not None:
                source.marks = sorted({*source.marks, *((t, characters.at(t).chars) for t in gone)})
            if first <= begin and after <= end:
                source.digest = GONE
                source.done = False
                source.lines = ""
        self.ids[first:end] = array("i", [self.filler()]) * (end - first)
        self.lengths[first:end] = bytes(end - first)

    def _places_left(self, places: Iterable[Place], gone: TokenRange, characters: Characters) -> tuple[Place, ...]:
        """The places of a source whose titles lie in none of the tokens `gone`."""
        if self._tokenizer is None:
            # Where titles stand cannot be told here, and none of what is forgotten may stay.
            return ()
        low = characters.at(gone.first).begins
        high = characters.at(gone.end).chars
        return tuple(p for p in places if not _meets(p, low, high))


def _source(saved: dict[str, Any]) -> Source:
    """A source as `state` gave it; one that was saved before there were places has none."""
    marks = [(token, chars) for token, chars in saved["marks"]]
    places = tuple(Place(**place) for place in saved.get("places", ()))
    return Source(**saved | {"marks": marks, "places": places})


def _meets(place: Place, low: int, high: int) -> bool:
    """Whether the line of a heading lies in the characters `low` .. `high - 1`, in part at least."""
    return place.start < high and place.start + max(1, len(place.title)) > low
