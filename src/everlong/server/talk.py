"""What was said in a session, told from what it has read: messages, answers and documents in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from everlong.errors import CapabilityError
from everlong.text import control_tokens as control
from everlong.text.chat_template import OTHER, Template
from everlong.text.detokenize import Detokenizer
from everlong.text.source_names import short_names
from everlong.text.transcript import ANSWER, GONE, PROMPT, Source, Transcript

LONGEST = 20_000
"""Characters of a message that are shown at most, of its beginning."""
_MARK = "\x00"


@dataclass(frozen=True)
class Said:
    """A message of the `user`, an answer of the `assistant`, or a `document`, which has a name in place of a text."""

    role: str
    text: str
    first: int
    end: int
    chars: int = 0
    """Characters of the text, of which the first are here."""
    done: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def entries(transcript: Transcript, tokenizer: Any, before: int, most: int) -> list[Said]:
    """The last of what was said and read before a token, at most so many, oldest first."""
    frames = list(_frames(tokenizer))
    names = short_names(s.name for s in transcript.sources)
    found: list[Said] = []
    for source in reversed(transcript.sources):
        entry = _entry(transcript, tokenizer, source, frames, names) if source.first < before else None
        if entry is not None:
            found.append(entry)
        if len(found) == most:
            break
    return found[::-1]


def without_running(found: Sequence[Said], said: str) -> list[Said]:
    """The entries without the turn that is being written at their end, whose message is `said`."""
    kept = list(found)
    if kept and kept[-1].role == "assistant" and [e.text for e in kept[-2:-1]] == [said.strip()[:LONGEST]]:
        return kept[:-2]
    return kept[:-1] if kept and kept[-1].role == "user" else kept


def _entry(
    transcript: Transcript, tokenizer: Any, source: Source, frames: list[tuple[str, str]], names: dict[str, str]
) -> Said | None:
    first, end = transcript.bounds(source)
    if source.name not in (PROMPT, ANSWER):
        if source.digest == GONE or first == end:
            return None
        return Said("document", names.get(source.name, source.name), first, end, done=source.done or not source.digest)
    text = _marked(tokenizer, transcript.ids[first:end])
    said = (_said(text, frames) if source.name == PROMPT else _plain(text)).strip()
    role = "user" if source.name == PROMPT else "assistant"
    shown = first < end and (said or role == "assistant")
    return Said(role, said[:LONGEST], first, end, len(said)) if shown else None


def _frames(tokenizer: Any) -> Iterator[tuple[str, str]]:
    """What the template puts before and behind a later message, and the first one; none without a template."""
    try:
        template = Template(tokenizer)
        for ids in (template.turn(OTHER), template.opening(OTHER)):
            before, found, after = _marked(tokenizer, ids).partition(OTHER)
            if found and before:
                yield before, after
    except CapabilityError:
        return


def _marked(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids, with the number of each control token between two marks in its place."""
    known = control.of(tokenizer).ids
    detokenizer = Detokenizer(tokenizer)
    found = ""
    for is_control, run in groupby(ids, known.__contains__):
        part = list(run)
        found += "".join(f"{_MARK}{i}{_MARK}" for i in part) if is_control else detokenizer.text(part, [])
    return found


def _said(text: str, frames: list[tuple[str, str]]) -> str:
    """The user's last message in what was read between two answers; all of its words where it has another form."""
    for before, after in frames:
        at = text.rfind(before)
        if at >= 0 and text.endswith(after):
            return text[at + len(before) : len(text) - len(after)]
    return "" if text.count(_MARK) and not any(c.isalnum() for c in _plain(text)) else _plain(text)


def _plain(text: str) -> str:
    """A marked text without its control tokens."""
    return "".join(text.split(_MARK)[::2])
