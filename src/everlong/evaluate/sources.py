"""A context of several named texts, and answers with what of it they drew on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from everlong.evaluate.stream import Stream
from everlong.session.asking import recalls
from everlong.text.transcript import ANSWER, PROMPT, Citation

TOP = 5
"""Citations of an answer that count."""
_ALL = 1 << 30


class SourcePart(NamedTuple):
    """Characters `start` .. `end - 1` of a context, and the source that they are."""

    source: str
    start: int
    end: int


def joined(texts: Iterable[tuple[str, str]]) -> tuple[str, tuple[SourcePart, ...]]:
    """The texts, given as (source, text), in one; and where in it each stands."""
    found = []
    at = 0
    parts = []
    for source, text in texts:
        found.append(text)
        parts.append(SourcePart(source, at, at + len(text)))
        at += len(text)
    return "".join(found), tuple(parts)


def feed(stream: Stream, context: str, parts: Iterable[SourcePart]) -> None:
    """Read these parts of the context, each under the name of its source."""
    for part in parts:
        stream.feed(context[part.start : part.end], source=part.source)


def cites(stream: Stream) -> bool:
    """Whether the stream can say what its answers drew on: the methods that store blocks can."""
    return stream.session is not None and stream.session.method.answers


def ask(
    stream: Stream, question: str, max_new_tokens: int, stop: Sequence[str] = (), keep: bool = False, top: int = TOP
) -> tuple[str, list[Citation] | None]:
    """The answer, and its first `top` citations of what was fed, by falling share; None where the stream has none.

    Not `keep`: the stream is afterwards as if it had never been asked, and passages are read again where it recalls
    them.
    """
    if not cites(stream):
        return stream.ask(question, max_new_tokens, stop, keep=keep), None
    session = stream.session
    if session is not None and not keep and recalls(session):
        with stream.clock.running():
            reply = session.ask(question, raw=True, max_new_tokens=max_new_tokens, stop=tuple(stop))
            text = reply.text
        stream.clock.prompt_tokens = stream.seen_tokens
        stream.clock.new_tokens += len(reply.result.token_ids)
        stream.clock.tick(len(question))
        return text, _of_what_was_fed(reply.citations(_ALL))[:top]
    with nullcontext(stream) if keep else stream.forked() as asked:
        answer = asked.ask(question, max_new_tokens, stop)
        assert asked.session is not None
        return answer, _of_what_was_fed(asked.session.citations(_ALL))[:top]


def _of_what_was_fed(cited: list[Citation]) -> list[Citation]:
    """Without those of the question and the answer, which are stored too where they have left the window."""
    return [one for one in cited if one.source not in (PROMPT, ANSWER)]
