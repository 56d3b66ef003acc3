"""How much is read in one step: as much as does not hold up those that are being answered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from everlong.engine.engine import Engine
from everlong.engine.scheduler import TOKENS
from everlong.session.session import Session

LEAST_TOKENS = 16
"""Tokens that are read in a step in any case."""
_AIM = 0.75
"""Of the longest gap: times vary."""
_WEIGHT = 0.2
"""Of the newest measurement in what is remembered."""


class Pace:
    """Sizes the pieces of readers by measured times, so that a step takes at most `max_gap` steps of answers alone."""

    def __init__(self, max_gap: float = 4.0, most: int = TOKENS) -> None:
        self.max_gap = max_gap
        self._most = most
        self._answers = 0
        self._answer_s: float | None = None
        self._read_s: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the next step at most."""
        return self._most if not self._answers else min(self._most, self._answers + self.piece)

    @property
    def piece(self) -> int:
        """Tokens that readers may take of a step: all while nobody is being answered."""
        if not self._answers:
            return self._most
        if self._answer_s is None or self._read_s is None:
            return 4 * LEAST_TOKENS
        fit = (_AIM * self.max_gap - 1) * self._answer_s / self._read_s
        return max(LEAST_TOKENS, min(self._most, int(fit)))

    @contextmanager
    def timed(self, engine: Engine) -> Iterator[None]:
        """Measure a step of the engine: of answers alone, or what reading added to it."""
        before = {key: r.stream.seen_tokens for key, r in engine.requests.items()}
        requests = dict(engine.requests)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        read = {key: r.stream.seen_tokens - before[key] for key, r in requests.items()}
        answers = sum(1 for r in requests.values() if r.written is not None)
        tokens = sum(read.values()) - answers
        self._answers = sum(1 for r in engine.requests.values() if r.written is not None)
        if tokens > LEAST_TOKENS // 2:
            self.took_reading(tokens, took - (self._answer_s or 0.0) * bool(answers))
        elif answers:
            self._answer_s = _mixed(self._answer_s, took)

    @contextmanager
    def reading(self, session: Session) -> Iterator[None]:
        """Measure what a session reads by itself between two steps."""
        before = session.seen_tokens
        start = time.perf_counter()
        yield
        self.took_reading(session.seen_tokens - before, time.perf_counter() - start)

    def took_reading(self, tokens: int, seconds: float) -> None:
        """Take down what reading so many tokens took."""
        if tokens > 0:
            self._read_s = _mixed(self._read_s, max(seconds, 1e-6) / tokens)


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
