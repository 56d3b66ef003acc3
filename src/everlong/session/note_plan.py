"""What notes a source gets: one for each piece of it, and notes on notes up to one for the whole (a tree)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from everlong.errors import ConfigError
from everlong.session.named_places import WHOLE, without_contents
from everlong.text.places import Place
from everlong.text.transcript import Source, TokenRange, Transcript

PROMPT_TOKENS = 40
"""Tokens around what a note is made of, and in front of a note, about: for estimates."""
_LABEL_CHARS = 80
_SMALLEST = {"chapter": 8, "heading": 2, "page": 2}
"""A part of a text shorter than a piece divided by this goes together with the next."""
Names = tuple[str, str]
"""Of the first and of the last part of a text that belong together."""
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s*$|\n\s*$")


@dataclass(frozen=True)
class NoteSettings:
    """How notes are made; ConfigError for what cannot be."""

    piece_tokens: int = 1536
    """Tokens of a source that one note is about, at most; fewer where the model was trained on shorter texts."""
    max_new_tokens: int = 96
    """Tokens of a note, at most."""
    fan_in: int = 6
    """Notes that a note on notes is made of, at most."""
    repetition_penalty: float | int = 1.1
    """Above 1 keeps small models from writing the same again and again."""

    def __post_init__(self) -> None:
        for name, least in (("piece_tokens", 8), ("max_new_tokens", 1), ("fan_in", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {least}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty={self.repetition_penalty}: must be above 0 (1 changes nothing)")


@dataclass(frozen=True)
class NoteCost:
    """What notes take, at most: how many, tokens read for them, written, and read into the session afterwards."""

    notes: int
    read_tokens: int
    written_tokens: int
    kept_tokens: int


@dataclass(frozen=True)
class NotePiece:
    """What one note is about: tokens of the stream, which are characters `start` .. `end - 1` of the source.

    `made_of`: the places in the plan of the notes that it is made of; none for a note that is made of the text itself.
    `title` is the name by which the part can be asked for.
    """

    label: str
    title: str
    tokens: TokenRange
    start: int
    end: int
    made_of: tuple[int, ...] = ()


def estimated_cost(tokens: int, settings: NoteSettings) -> NoteCost:
    """What notes on a text of so many tokens take, as far as that can be said before it is read."""
    level = notes = max(1, math.ceil(tokens / settings.piece_tokens))
    read = tokens
    while level > 1:
        read += level * settings.max_new_tokens
        level = math.ceil(level / settings.fan_in)
        notes += level
    written = notes * settings.max_new_tokens
    return NoteCost(notes, read + notes * PROMPT_TOKENS, written, written + notes * PROMPT_TOKENS)


def plan_notes(transcript: Transcript, source: Source, settings: NoteSettings) -> list[NotePiece]:
    """The pieces of a source in the order in which notes on them are written; the last is about the whole.

    Pieces are chapters where it has some (else headings, pages), and otherwise runs of `piece_tokens`, cut at the ends
    of sentences; so is a chapter that is longer.
    """
    first, end = transcript.bounds(source)
    if first == end:
        return []
    plan = _Plan(transcript, source, settings)
    units = [plan.unit(names, tokens) for names, tokens in _units(transcript, source, settings)]
    if not units:
        plan.unit((WHOLE, WHOLE), TokenRange(first, end))
    else:
        plan.reduce(units, WHOLE)
    return plan.pieces


class _Plan:
    """Pieces as they are found, each with the names of the first and the last part of the source that it is about."""

    def __init__(self, transcript: Transcript, source: Source, settings: NoteSettings) -> None:
        self._transcript = transcript
        self._source = source
        self._settings = settings
        self.pieces: list[NotePiece] = []
        self._names: list[Names] = []

    def unit(self, names: Names, tokens: TokenRange) -> int:
        """Plan the notes on a part of the text up to one for all of it; where that one stands in the plan."""
        title = _from_to(names)
        parts = list(_cut(self._transcript, tokens, self._settings.piece_tokens))
        if len(parts) == 1:
            return self._add(title, title, names, tokens)
        found = []
        for n, part in enumerate(parts, 1):
            label = f"piece {n} of {len(parts)}"
            if title == WHOLE:
                found.append(self._add(label, label, (label, label), part))
            else:
                found.append(self._add(f"{title}, {label}", title, names, part))
        return self.reduce(found, title)

    def reduce(self, found: Sequence[int], title: str) -> int:
        """Plan notes on these notes, and so on up to one, which is about `title`; where that one stands."""
        while len(found) > 1:
            last = len(found) <= self._settings.fan_in
            found = [self._over(group, title if last else None) for group in _groups(found, self._settings.fan_in)]
        if title == WHOLE and self.pieces[found[0]].title != WHOLE:
            return self._over(found, WHOLE)
        return found[0]

    def _over(self, group: Sequence[int], title: str | None) -> int:
        first = group[0]
        last = group[-1]
        names = self._names[first][0], self._names[last][1]
        label = title or _from_to(names)
        tokens = TokenRange(self.pieces[first].tokens.first, self.pieces[last].tokens.end)
        return self._add(label, label, names, tokens, tuple(group))

    def _add(self, label: str, title: str, names: Names, tokens: TokenRange, made_of: tuple[int, ...] = ()) -> int:
        start, end = (self._transcript.chars(self._source, token) for token in tokens)
        self.pieces.append(NotePiece(label, title, tokens, start, end, made_of))
        self._names.append(names)
        return len(self.pieces) - 1


def _from_to(names: Names) -> str:
    first, last = names
    return first if first == last else f"from {first} to {last}"


def _groups(found: Sequence[int], fan_in: int) -> Iterator[Sequence[int]]:
    """The same in as few groups of about equal size as there can be."""
    count = math.ceil(len(found) / fan_in)
    cuts = [len(found) * n // count for n in range(count + 1)]
    for first, end in pairwise(cuts):
        yield found[first:end]


def _units(transcript: Transcript, source: Source, settings: NoteSettings) -> Iterator[tuple[Names, TokenRange]]:
    """The chapters of a source (else its headings, or pages) as names and tokens; nothing where it has none."""
    first, end = transcript.bounds(source)
    places = _divisions(transcript, source)
    if not places:
        return
    starts = [first, *(token for token, _ in places[1:] if token > first)]
    smallest = settings.piece_tokens // _SMALLEST[places[0][1].kind]
    begin = first
    titles = list[str]()
    for token, after in zip(starts, [*starts[1:], end], strict=True):
        titles += [p.title[:_LABEL_CHARS] for t, p in places if t == token or (token == first and t <= first)]
        if after - begin >= smallest or after == end:
            yield _names(titles, places[0][1]), TokenRange(begin, after)
            begin = after
            titles = []


def _divisions(transcript: Transcript, source: Source) -> list[tuple[int, Place]]:
    """The places that divide a source, by their first token; what stands before the first of them is a part too."""
    first, after = transcript.bounds(source)
    low = transcript.chars(source, first)
    high = transcript.chars(source, after)
    for kind in ("chapter", "heading", "page"):
        chosen = [p for p in without_contents(source.places, source.places) if p.kind == kind and low <= p.start < high]
        found = [(transcript.tokens_of(source, p.start, p.start + 1).first, p) for p in chosen]
        if len(found) > 1:
            begins = Place(kind, "the beginning", low, 0)
            return ([(first, begins)] if found[0][0] > first else []) + found
    return []


def _names(titles: Sequence[str], like: Place) -> Names:
    """What small parts are called together: chapters by the last, as those before it are no more than names."""
    return (titles[-1] if like.kind == "chapter" else titles[0]), titles[-1]


def _cut(transcript: Transcript, tokens: TokenRange, most: int) -> Iterator[TokenRange]:
    """The same tokens in runs of at most `most`, of about equal length, that end where sentences do if they can."""
    begin, end = tokens
    while end - begin > most:
        even = math.ceil((end - begin) / math.ceil((end - begin) / most))
        high = begin + min(most, even + even // 8)
        low = begin + even // 2
        cut = next((t for t in range(high, low, -1) if _ends_sentence(transcript, begin, t)), high)
        yield TokenRange(begin, cut)
        begin = cut
    yield TokenRange(begin, end)


def _ends_sentence(transcript: Transcript, begin: int, token: int) -> bool:
    """Whether a sentence, or a line, ends before `token`."""
    before = transcript.text(max(begin, token - 4), token)
    return bool(_SENTENCE_END.search(before)) and (
        before[-1].isspace() or transcript.text(token, token + 1)[:1].isspace()
    )
