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
FIRST_TOKENS = 32
"""Tokens that are read while nothing was measured."""
_AIM = 0.75
"""Of the longest gap: times vary."""
_WEIGHT = 0.2
"""Of the newest measurement in what is remembered."""
_SHRINKS, _GROWS = 0.5, 1.2
"""By how much a piece follows the one before, at most."""


class Pace:
    """Sizes the pieces of readers by measured times, so that a step takes at most `max_gap` steps of answers alone."""

    def __init__(self, max_gap: float = 4.0, most: int = TOKENS) -> None:
        self.max_gap = max_gap
        self._most = most
        self._answers = 0
        self._answer_s: float | None = None
        self._piece = float(FIRST_TOKENS)

    @property
    def tokens(self) -> int:
        """Tokens of the next step at most."""
        return self._most if not self._answers else min(self._most, self._answers + self.piece)

    @property
    def piece(self) -> int:
        """Tokens that readers may take of a step: all while nobody is being answered."""
        return min(self._most, int(self._piece)) if self._answers else self._most

    def piece_of(self, session: Session) -> int:
        """Tokens that a session may read next: as `piece`, but none behind a place where it chooses its blocks anew.

        There blocks are stored and fetched: a piece that goes on behind it takes twice as long.
        """
        between = session.method.as_dict().get("exec_chunk")
        return self.piece if between is None else min(self.piece, between - session.seen_tokens % between)

    @contextmanager
    def timed(self, engine: Engine) -> Iterator[None]:
        """Measure a step of the engine: of answers alone, or with what was read beside them."""
        before = {key: r.stream.seen_tokens for key, r in engine.requests.items()}
        requests = dict(engine.requests)
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        read = {key: r.stream.seen_tokens - before[key] for key, r in requests.items()}
        answers = sum(1 for r in requests.values() if r.written is not None)
        tokens = sum(read.values()) - answers
        self._answers = sum(1 for r in engine.requests.values() if r.written is not None)
        if answers and tokens > 0:
            self.took_reading(tokens, took - (self._answer_s or 0.0))
        elif answers:
            self._answer_s = took if self._answer_s is None else (1 - _WEIGHT) * self._answer_s + _WEIGHT * took

    @contextmanager
    def reading(self, session: Session) -> Iterator[None]:
        """Measure what a session reads by itself between two steps."""
        before = session.seen_tokens
        start = time.perf_counter()
        yield
        self.took_reading(session.seen_tokens - before, time.perf_counter() - start)

    def took_reading(self, tokens: int, seconds: float) -> None:
        """Let the next piece be as much as fits, as far as one of so many tokens, which took so long, tells.

        Of a step much is the same whatever its tokens, so that a piece of few tells nothing of one of many.
        """
        if self._answers and self._answer_s is not None and 2 * tokens >= int(self._piece):
            fits = (_AIM * self.max_gap - 1) * self._answer_s / max(seconds, 1e-6)
            self._piece = max(LEAST_TOKENS, min(self._most, tokens * max(_SHRINKS, min(_GROWS, fits))))
