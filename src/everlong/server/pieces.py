"""What is told of answers while they are written, and the wait for their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from everlong.engine.engine import GenerationRequest
from everlong.engine.generation import GenerationResult
from everlong.engine.token_odds import TokenOdds
from everlong.server.worker import Left, Ready
from everlong.session.session import Session


@dataclass(frozen=True)
class Piece:
    """A piece of the answer number `index`: its text, and the odds of the tokens that it ends with."""

    index: int
    text: str
    odds: Sequence[TokenOdds] = ()


@dataclass(frozen=True)
class Progress:
    """How far a prompt is read: `total` tokens, `cached` of them from before, `processed` so far, those included."""

    total: int
    cached: int
    processed: int
    seconds: float

    def as_dict(self) -> dict[str, int]:
        """As llama.cpp shows it."""
        took_ms = int(1000 * self.seconds)
        return {"total": self.total, "cache": self.cached, "processed": self.processed, "time_ms": took_ms}


Tell = Callable[[Piece | Progress], None]
"""Tells each piece of an answer as soon as it is decided, and how far its prompt is; called in the engine's thread."""


@dataclass
class PieceTeller:
    """Tells the pieces of one of several answers, with the odds of their tokens."""

    index: int
    tell: Tell
    requests: list[GenerationRequest]
    given: int = 0

    def __call__(self, text: str) -> None:
        """Take a piece of text."""
        written = self.requests[self.index].written
        odds = [] if written is None else written.odds[self.given :]
        self.given += len(odds)
        self.tell(Piece(self.index, text, odds))


class ProgressTeller:
    """Tells how far a session has come with a prompt of so many tokens, whenever it has come further."""

    def __init__(self, session: Session, tokens: int, tell: Tell) -> None:
        self._session = session
        self._begun = session.seen_tokens
        self._total = self._begun + tokens
        self._tell = tell
        self._start = time.monotonic()
        self._told = -1

    def __call__(self) -> None:
        """Look how far it is."""
        read = min(self._session.seen_tokens, self._total)
        if read > self._told:
            self._told = read
            self._tell(Progress(self._total, self._begun, read, time.monotonic() - self._start))


def finished(
    requests: Sequence[GenerationRequest], look: Callable[[], None] = lambda: None
) -> Generator[Ready | None, None, list[GenerationResult]]:
    """What was written, when all is; whoever leaves ends it. Left where nothing was written then.

    `look` is called after each step.
    """
    gone = False

    def ended() -> bool:
        look()
        return all(request.done for request in requests)

    try:
        yield ended
    except Left:
        gone = True
    finally:
        for request in requests:
            request.cancel()
    for request in requests:
        if request.error is not None:
            raise Left if gone else request.error
    return [request.result for request in requests if request.result is not None]
