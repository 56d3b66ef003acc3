"""Which chapters, headings and pages a question names, and the tokens of them: for questions about a whole part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import PurePath

from everlong.text.places import DIVISIONS, NUMBER, Place, end_of, number_of
from everlong.text.source_names import NOTES, endings
from everlong.text.transcript import GONE, Source, TokenRange, Transcript

WHOLE = "the whole text"
"""The title of what is said about a source as a whole."""
_NAMES = "|".join((*DIVISIONS, "page"))
_FIRST_TEN = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINALS = {word: n for n, word in enumerate(_FIRST_TEN, 1)} | {"last": -1, "final": -1}
_NUMBERED = re.compile(
    rf"\b({_NAMES})s?\s+({NUMBER}(?:\s*(?:,|and|or|to|-|–|&|through)\s*{NUMBER})*)(?!(?<= I)\s+[a-z])", re.IGNORECASE
)
_ORDINAL = re.compile(rf"\b({'|'.join(_ORDINALS)}|\d+(?=st|nd|rd|th))(?:st|nd|rd|th)?\s+({_NAMES})\b", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“„«]([^\"”“»]{2,100})[\"”»]")
_WHOLE = re.compile(
    r"\b(summar(y|ise|ize)|synopsis|plot|tl;?dr|overview|(whole|entire) (text|book|story|document|novel|file)"
    r"|(book|story|text|document|novel|file|paper|article|all this) (is )?about)\b",
    re.IGNORECASE,
)
_COMMON = ("introduction", "preface", "prologue", "epilogue", "foreword", "abstract", "conclusion", "conclusions")
_KNOWN = frozenset((*_COMMON, "appendix", "references", "methods", "results", "discussion", "acknowledgements"))
_CONTENTS_CHARS = 200
"""Places less far apart may be lines of a table of contents."""
_NUMBER_BEFORE = re.compile(rf"(?:(?:{_NAMES})\s+)?(?:{NUMBER})\s*[.:)—–-]*\s*", re.IGNORECASE)


def places_named(places: Sequence[Place], question: str) -> list[Place]:
    """The places of one source that a question names, in order: by number ("chapter III", "pages 3 to 5"), or title.

    Of places with the same name, lines of a table of contents are left out. Where a larger division is named too ("book
    two, chapter 3"), only what lies in it counts. A question about the whole names a place called `WHOLE`, if no other.
    """
    named = _by_number(places, question) + _by_ordinal(places, question) + _by_title(places, question)
    found = without_contents(places, named) or [p for p in places if p.title == WHOLE and asks_whole(question)]
    highest = [p for p in found if p.kind != "page" and p.level == min(f.level for f in found)]
    inside = [p for p in found if p not in highest and any(_holds(places, outer, p) for outer in highest)]
    return sorted(set(inside or found), key=lambda p: (p.start, p.level))


def notes_name(source: str) -> str:
    """The name of the source that holds the notes on another."""
    return f"{NOTES}{source}"


def asks_whole(question: str) -> bool:
    """Whether a question is about a text as a whole ("summarise", "what is the plot", "what is the book about")."""
    return _WHOLE.search(question) is not None


def named_spans(transcript: Transcript, question: str) -> list[TokenRange]:
    """The tokens of the places that a question names, over all sources that were not forgotten, in order.

    Where the question names a source too (by its file's name, with or without the suffix, or the end of its path), only
    that one counts. Nothing where it names no place. Places that were not read yet, or are forgotten, are left out.
    """
    sources = [s for s in transcript.sources if s.places and s.digest != GONE]
    said = {id(s): _parts_said(s, question) for s in sources}
    most = max(said.values(), default=0)
    meant = [s for s in sources if said[id(s)] == most]
    found: list[TokenRange] = []
    for source in meant:
        for place in places_named(source.places, question):
            span = tokens_of_place(transcript, source, place)
            found += [] if span is None else [span]
    return _merged(found)


def tokens_of_place(transcript: Transcript, source: Source, place: Place) -> TokenRange | None:
    """The tokens of a place, as far as they were read; None without any."""
    first, after = transcript.bounds(source)
    if first == after:
        return None
    low = transcript.chars(source, first)
    high = transcript.chars(source, after)
    end = end_of(source.places, place)
    start = max(low, place.start)
    end = high if end is None else min(high, end)
    return transcript.tokens_of(source, start, end) if start < end else None


def _by_number(places: Iterable[Place], question: str) -> list[Place]:
    wanted = {(said[1].lower(), n) for said in _NUMBERED.finditer(question) for n in _numbers(said[2])}
    known = [(place, *_name(place)) for place in places]
    found = [place for place, word, number in known if number is not None and (word, number) in wanted]
    if found:
        return found
    # "Chapter 3" of a text whose headings have numbers and are not called chapters, and the other way round.
    loose = {number for word, number in wanted if word in ("chapter", "section")}
    return [place for place, word, number in known if number in loose and word in ("", "chapter", "section")]


def _numbers(said: str) -> list[tuple[int, ...]]:
    """The numbers of "3", "3 and 5" or "3 to 5"."""
    parts = re.split(rf"({NUMBER})", said, flags=re.IGNORECASE)
    numbers = [number for part in parts[1::2] if (number := number_of(part)) is not None]
    if len(said) == 1 and said.islower():
        return []
    ranged = [i for i, between in enumerate(parts[2:-1:2], 1) if re.search("to|through|-|–", between)]
    for i in ranged:
        if i < len(numbers) and len(numbers[i - 1]) == len(numbers[i]) == 1:
            numbers += [(n,) for n in range(numbers[i - 1][0] + 1, numbers[i][0])]
    return numbers


def _by_ordinal(places: Sequence[Place], question: str) -> list[Place]:
    """Those meant by "the third chapter" or "the last page"."""
    found: list[Place] = []
    for said in _ORDINAL.finditer(question):
        word = said[2].lower()
        named = [(place, number) for place in places for name, number in [_name(place)] if number and name == word]
        if not named:
            continue
        wanted = _ORDINALS.get(said[1].lower()) or int(said[1])
        last = max(number for _, number in named)
        found += [place for place, number in named if number == (last if wanted == -1 else (wanted,))]
    return found


def _name(place: Place) -> tuple[str, tuple[int, ...] | None]:
    """What a place is called ("chapter", or nothing where it has a number only), and its number."""
    said = re.match(rf"({_NAMES})\s+({NUMBER})", place.title, re.IGNORECASE)
    if said:
        return said[1].lower(), number_of(said[2])
    bare = re.match(rf"({NUMBER})(?=[.):]|\s|$)", place.title, re.IGNORECASE)
    number = number_of(bare[1]) if bare else None
    return ("chapter" if place.kind == "chapter" else ""), number


def _by_title(places: Iterable[Place], question: str) -> list[Place]:
    quoted = {_plain(said) for said in _QUOTED.findall(question)}
    words = f" {_plain(question)} "
    cased = f" {_plain(question, fold=False)} "
    found = []
    for place in places:
        bare = _NUMBER_BEFORE.sub("", place.title, count=1)
        titles = {_plain(place.title), _plain(bare)} - {""}
        said = titles & quoted or any(_says(title, words) for title in titles)
        if said or (place.kind != "page" and _says_as_written(bare, cased)):
            found.append(place)
    return found


def _says(title: str, words: str) -> bool:
    """Whether a question says a title that is long or well known enough not to be said by chance."""
    return f" {title} " in words and (title in _KNOWN or len(title.split()) >= 4)


def _says_as_written(title: str, cased: str) -> bool:
    """Whether a question says a title of two words or three, capitals included."""
    plain = _plain(title, fold=False)
    return len(plain.split()) >= 2 and any(c.isupper() for c in plain) and f" {plain} " in cased


def _plain(text: str, fold: bool = True) -> str:
    """The words of a text with single spaces between them."""
    words = " ".join(re.findall(r"\w+", text))
    return words.casefold() if fold else words


def without_contents(places: Sequence[Place], found: Iterable[Place]) -> list[Place]:
    """The places that were found, each once, without those that a table of contents names."""
    listed = _contents(places)
    once = list(dict.fromkeys(found))
    later = [p for p in once if p not in listed]
    return [p for p in once if p not in listed or not any(_key(p) == _key(other) for other in later)]


def _contents(places: Sequence[Place]) -> set[Place]:
    """The places that stand so close to the one before or behind them that they may be lines of a list."""
    ordered = sorted((p for p in places if p.kind != "page" and p.level > 0), key=lambda p: p.start)
    close = [(a, b) for a, b in pairwise(ordered) if b.start - a.start < _CONTENTS_CHARS]
    return {p for pair in close for p in pair}


def _key(place: Place) -> object:
    word, number = _name(place)
    return (word, number) if number is not None else _plain(place.title)


def _holds(places: Sequence[Place], outer: Place, inner: Place) -> bool:
    end = end_of(places, outer)
    return outer.start <= inner.start and (end is None or inner.start < end)


def _parts_said(source: Source, question: str) -> int:
    """Of how many parts the ending of a source's path is that a question says; 0 where it does not name the source."""
    name = source.name.removeprefix(NOTES)
    stem = PurePath(name).stem
    said = [n for n, ending in enumerate(endings(name), 1) if _holds_words(question, ending)]
    return max(said, default=int(len(stem) > 3 and _holds_words(question, stem)))


def _holds_words(question: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", question, re.IGNORECASE) is not None


def _merged(spans: Iterable[TokenRange]) -> list[TokenRange]:
    """The same tokens in spans that do not touch, in order."""
    found: list[TokenRange] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].end:
            found[-1] = TokenRange(found[-1].first, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found
