"""Where a passage stands as people cite it: page, chapter or heading, line, and the whole sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from everlong.text.images import DIGEST
from everlong.text.lines import line_at
from everlong.text.places import Place
from everlong.text.quoting import by_answer, starts, words
from everlong.text.source_names import NOTES, short_name
from everlong.text.transcript import ANSWER, GONE, PROMPT, Citation, Passage, Source, Transcript

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream
    from everlong.session.recall import Recall

IMAGE = "[image]"
"""What stands in a citation in the place of a sentence, where an image is cited."""
AROUND_TOKENS = 128
"""A sentence that a passage has cut is looked for so far to either side of it."""
LONGEST = 400
"""Of a "sentence" of so many characters that has several lines (a log, a table) a line is shown."""


@dataclass(frozen=True)
class Spot:
    """Where a character stands: the number of its page and of its line, and what it stands under; None without."""

    page: int | None = None
    chapter: str | None = None
    heading: str | None = None
    line: int | None = None


def drawn_on(stream: WritingStream, top: int) -> list[Citation]:
    """The passages of stored blocks that the last answer attended to, by falling share of its attention."""
    rows = stream.stored("citations").rows
    found = []
    masses = rows[0].done.cited if rows else {}
    total = sum(masses.values())
    for block, mass in masses.items():
        first, end = rows[0].block_range(block)
        seen = _images(stream.transcript, first, end)
        text_share = mass / total * (1 - sum(n for _, n in seen) / (end - first))
        found += [_of_image(stream.transcript, s, mass / total * n / (end - first)) for s, n in seen]
        # Of a source that begins behind a block's last character the block may hold control tokens alone.
        for passage in (p for p in stream.transcript.passages(first, end) if p.start < p.end):
            share = text_share * len(passage.text) / max(1, len(stream.transcript.text(first, end)))
            found.append(cited(stream.transcript, passage, share))
    return sorted(found, key=lambda c: -c.mass)[:top]


def _images(transcript: Transcript, first: int, end: int) -> list[tuple[Source, int]]:
    """The images of which the tokens `first` .. `end` - 1 hold any, and how many."""
    found = []
    for source in transcript.sources:
        if source.digest.startswith(DIGEST):
            begin, after = transcript.bounds(source)
            if begin < end and after > first:
                found.append((source, min(end, after) - max(first, begin)))
    return found


def _of_image(transcript: Transcript, source: Source, mass: float) -> Citation:
    """An image as a citation, which has no text."""
    name = short_name(source.name, (s.name for s in transcript.sources))
    return Citation(source.name, 0, 0, "", mass, IMAGE, name)


def checked_against(transcript: Transcript, recall: Recall, question: str, answer: str) -> list[Citation]:
    """The recalled passages that an answer can be checked against, best first; none where no passage stands out.

    Those that are nearly as good as the best one, with their shares of the vote (together 1); first the one that has
    what the answer says and the question does not.
    """
    if not recall.stands_out:
        return []
    near = by_answer([p for p in recall.passages if p.near], question, answer)
    total = sum(p.share for p in near)
    return [cited(transcript, p, p.share / total, p.sentence, question) for p in near]


def cited(transcript: Transcript, passage: Passage, mass: float, sentence: str = "", question: str = "") -> Citation:
    """The passage as a citation, with the whole of its `sentence`."""
    source = _source_of(transcript, passage)
    start = passage.start
    if source is not None and sentence:
        start, sentence = _whole(transcript, source, passage, sentence, question)
    found = Spot() if source is None else spot(transcript, source, start)
    name = short_name(passage.source, (s.name for s in transcript.sources))
    where = passage.source, passage.start, passage.end, passage.text
    return Citation(*where, mass, sentence, name, **asdict(found))


def spot(transcript: Transcript, source: Source, char: int) -> Spot:
    """Where a character of a source stands."""
    parts = [s for s in transcript.sources if s.name == source.name and s.digest != GONE]
    under = _under([place for part in parts for place in part.places], char)
    titles = {place.kind: place.title for place in under}
    page = titles.get("page", "").rpartition(" ")[2]
    line = _line(transcript, source, char)
    return Spot(int(page) if page.isdecimal() else None, titles.get("chapter"), titles.get("heading"), line)


def is_read_text(source: Source) -> bool:
    """Whether a source is what was read, and neither what was said to the model nor what it has written."""
    return source.name not in (PROMPT, ANSWER) and not source.name.startswith(NOTES) and source.digest != GONE


def _line(transcript: Transcript, source: Source, char: int) -> int | None:
    """The line as it was noted down; of a text that was fed without a file, by its decoded text."""
    if source.lines or source.digest or source.places or not is_read_text(source):
        return line_at(source.lines, char)
    first, after = transcript.bounds(source)
    if char <= 0 or first == after or source.marks[0][1]:
        return None if source.marks[0][1] else 1
    before = transcript.passages(first, transcript.tokens_of(source, char - 1, char).end)[0]
    text = before.text[: char - before.start]
    # Where a tokenizer changes its text, or some was forgotten, lines can not be counted.
    return 1 + text.count("\n") if before.start == 0 and len(text) == char else None


def _under(places: Iterable[Place], char: int) -> list[Place]:
    """The places that a character lies in, the outer ones first; a page is the last."""
    open_places: list[Place] = []
    page: list[Place] = []
    for place in sorted(places, key=lambda p: p.start):
        if place.start > char:
            break
        if place.kind == "page":
            page = [place]
            continue
        while open_places and open_places[-1].level >= place.level:
            open_places.pop()
        open_places.append(place)
    return open_places + page


def _source_of(transcript: Transcript, passage: Passage) -> Source | None:
    """The part of a source that has a passage: of messages, which all begin at character 0, the one that says it."""
    parts = [s for s in transcript.sources if s.name == passage.source and s.marks[0][1] <= passage.start]
    inside = [s for s in parts if passage.end <= transcript.chars(s, transcript.bounds(s)[1])]
    current = [s for s in inside if s.digest != GONE] or inside
    said = (s for s in reversed(current) if len(current) == 1 or _says(transcript, s, passage))
    return next(said, None)


def _says(transcript: Transcript, source: Source, passage: Passage) -> bool:
    """Whether a part of a source has the text of a passage where this stands."""
    span = transcript.tokens_of(source, passage.start, passage.end)
    return any(passage.text in found.text for found in transcript.passages(span.first, span.end))


def _whole(transcript: Transcript, source: Source, passage: Passage, sentence: str, question: str) -> tuple[int, str]:
    """Where the whole of a sentence begins, and it; as it is where its ends are too far off."""
    at = passage.text.find(sentence)
    begin = passage.start + max(0, at)
    first, after = transcript.bounds(source)
    span = transcript.tokens_of(source, begin, max(begin + 1, min(passage.end, begin + len(sentence))))
    wide = transcript.passages(max(first, span.first - AROUND_TOKENS), min(after, span.end + AROUND_TOKENS))[0]
    inner = wide.text.find(sentence, max(0, begin - wide.start - len(sentence)))
    if at < 0 or inner < 0:
        return begin, sentence
    edges = [0, *starts(wide.text), len(wide.text)]
    low = max(e for e in edges if e <= inner)
    high = min(e for e in edges if e >= inner + len(sentence))
    if not low and wide.start > source.marks[0][1]:
        low = inner
    if high == len(wide.text) and span.end + AROUND_TOKENS < after:
        high = inner + len(sentence)
    return _best_line(wide.start + low, wide.text[low:high], question)


def _best_line(begin: int, text: str, question: str) -> tuple[int, str]:
    """A sentence and where it begins; of a long text in lines, the line with most words of the question."""
    asked = words(question)
    edges = [0]
    if len(text) > LONGEST and not _is_prose(text):
        edges += [n + 1 for n, letter in enumerate(text) if letter == "\n"]
    pieces = [(a, text[a:b]) for a, b in pairwise([*edges, len(text)]) if text[a:b].strip()]
    start, piece = max(pieces, key=lambda p: len(words(p[1]) & asked), default=(0, text))
    return begin + start + len(piece) - len(piece.lstrip()), piece.strip()


def _is_prose(text: str) -> bool:
    """Whether lines of a text are cut within its sentences, so that many begin with a small letter."""
    begun = [line.lstrip()[:1] for line in text.split("\n")[1:] if line.strip()]
    return 3 * sum(letter.islower() for letter in begun) >= len(begun)
