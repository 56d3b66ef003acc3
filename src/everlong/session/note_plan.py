"""What notes a source gets: one for each piece of it, and notes on notes up to one for the whole (a tree)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from everlong.errors import ConfigError
from everlong.session.named_places import WHOLE, tokens_of_place
from everlong.session.places import Place
from everlong.session.transcript import Source, Stretch, Transcript

PROMPT_TOKENS = 40
"""Tokens around what a note is made of, and in front of a note, about: for estimates."""
_LABEL_CHARS = 80
_SMALLEST = {"chapter": 8, "heading": 2, "page": 2}
"""A part of a text shorter than a piece divided by this goes together with the next."""
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
class Piece:
    """What one note is about: tokens of the stream, which are characters `start` .. `end - 1` of the source.

    `made_of`: the places in the plan of the notes that it is made of; none for a note that is made of the text itself.
    `title` is the name by which the part can be asked for.
    """

    label: str
    title: str
    tokens: Stretch
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


def plan_notes(transcript: Transcript, source: Source, settings: NoteSettings) -> list[Piece]:
    """The pieces of a source in the order in which notes on them are written; the last is about the whole.

    Pieces are chapters where it has some (else headings, pages), and otherwise runs of `piece_tokens`, cut at the ends
    of sentences; so is a chapter that is longer.
    """
    first, end = transcript.bounds(source)
    if first == end:
        return []
    plan = _Plan(transcript, source, settings)
    units = [plan.unit(title, tokens) for title, tokens in _units(transcript, source, settings)]
    if not units:
        plan.unit(WHOLE, Stretch(first, end))
    else:
        plan.reduce(units, WHOLE)
    return plan.pieces


class _Plan:
    """Pieces as they are found."""

    def __init__(self, transcript: Transcript, source: Source, settings: NoteSettings) -> None:
        self._transcript, self._source, self._settings = transcript, source, settings
        self.pieces: list[Piece] = []

    def unit(self, title: str, tokens: Stretch) -> int:
        """Plan the notes on a part of the text up to one for all of it; where that one stands in the plan."""
        parts = list(_cut(self._transcript, tokens, self._settings.piece_tokens))
        if len(parts) == 1:
            return self._add(title, title, tokens)
        before = "" if title == WHOLE else f"{title}, "
        named = [f"{before}piece {n} of {len(parts)}" for n in range(1, len(parts) + 1)]
        titles = named if title == WHOLE else [title] * len(parts)
        found = [self._add(*row) for row in zip(named, titles, parts, strict=True)]
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
        one, other = self.pieces[group[0]], self.pieces[group[-1]]
        label = title or (one.label if one is other else f"from {one.label} to {other.label}")
        return self._add(label, label, Stretch(one.tokens.first, other.tokens.end), tuple(group))

    def _add(self, label: str, title: str, tokens: Stretch, made_of: tuple[int, ...] = ()) -> int:
        start, end = (self._transcript.chars(self._source, token) for token in tokens)
        self.pieces.append(Piece(label[: 2 * _LABEL_CHARS], title[: 2 * _LABEL_CHARS], tokens, start, end, made_of))
        return len(self.pieces) - 1


def _groups(found: Sequence[int], fan_in: int) -> Iterator[Sequence[int]]:
    """The same in as few groups of about equal size as there can be."""
    count = math.ceil(len(found) / fan_in)
    cuts = [len(found) * n // count for n in range(count + 1)]
    for first, end in pairwise(cuts):
        yield found[first:end]


def _units(transcript: Transcript, source: Source, settings: NoteSettings) -> Iterator[tuple[str, Stretch]]:
    """The chapters of a source (else its headings, or pages) as titles and tokens; nothing where it has none."""
    first, end = transcript.bounds(source)
    places = _divisions(transcript, source)
    if not places:
        return
    starts = [first, *(token for token, _ in places[1:] if token > first)]
    smallest = settings.piece_tokens // _SMALLEST[places[0][1].kind]
    begin, titles = first, list[str]()
    for token, after in zip(starts, [*starts[1:], end], strict=True):
        titles += [p.title[:_LABEL_CHARS] for t, p in places if t == token or (token == first and t <= first)]
        if after - begin >= smallest or after == end:
            yield _title(titles, places[0][1]), Stretch(begin, after)
            begin, titles = after, []


def _divisions(transcript: Transcript, source: Source) -> list[tuple[int, Place]]:
    """The places that divide a source, by their first token; what stands before the first of them is a part too."""
    first, _ = transcript.bounds(source)
    for kind in ("chapter", "heading", "page"):
        chosen = [p for p in source.places if p.kind == kind]
        spans = [(tokens_of_place(transcript, source, p), p) for p in chosen]
        found = [(span.first, p) for span, p in spans if span is not None]
        if len(found) > 1:
            begins = Place(kind, "the beginning", transcript.chars(source, first), 0)
            return ([(first, begins)] if found[0][0] > first else []) + found
    return []


def _title(titles: Sequence[str], like: Place) -> str:
    """What small parts are called together: chapters by the last, as those before it are no more than names."""
    if like.kind == "chapter" or len(titles) == 1:
        return titles[-1]
    return f"from {titles[0]} to {titles[-1]}"


def _cut(transcript: Transcript, tokens: Stretch, most: int) -> Iterator[Stretch]:
    """The same tokens in runs of at most `most`, of about equal length, that end where sentences do if they can."""
    begin, end = tokens
    while end - begin > most:
        even = math.ceil((end - begin) / math.ceil((end - begin) / most))
        high = begin + min(most, even + even // 8)
        low = begin + even // 2
        cut = next((t for t in range(high, low, -1) if _ends_sentence(transcript, begin, t)), high)
        yield Stretch(begin, cut)
        begin = cut
    yield Stretch(begin, end)


def _ends_sentence(transcript: Transcript, begin: int, token: int) -> bool:
    """Whether a sentence, or a line, ends before `token`."""
    before = transcript.text(max(begin, token - 4), token)
    return bool(_SENTENCE_END.search(before)) and (
        before[-1].isspace() or transcript.text(token, token + 1)[:1].isspace()
    )
