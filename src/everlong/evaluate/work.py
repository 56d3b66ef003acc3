"""One sample on one method: what is to be done, the records of it, and how far a run is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from everlong.errors import CapabilityError, TooLongError
from everlong.evaluate.plan import Entry, Subject
from everlong.evaluate.stream import Clock
from everlong.evaluate.task import Outcome, Sample

Advance = Callable[[int, str], None]
"""Told how many characters were read so far, and a few words on how it goes."""


@dataclass(frozen=True)
class Work:
    """One sample on one method, and what its records say of where they come from."""

    entry: Entry
    subject: Subject
    sample: Sample
    facts: dict[str, Any]

    @property
    def weight(self) -> int:
        """Characters that are read."""
        return len(self.sample.context) + len(self.sample.question) + 1

    def record(self, outcome: Outcome, spent: dict[str, Any], report: dict[str, Any] | None) -> dict[str, Any]:
        """The record of one question."""
        return self.facts | {
            "part": outcome.part,
            "group": self.sample.group if outcome.group is None else outcome.group,
            "status": "ok",
            "prediction": outcome.prediction,
            "gold": outcome.gold,
            "score": outcome.score,
            "scores": dict(outcome.scores),
            "facts": dict(outcome.facts),
            **spent,
            "report": report,
        }

    def unanswered(self, error: CapabilityError, spent: dict[str, Any]) -> dict[str, Any]:
        """The record of a sample that ended early, and why."""
        status = "too long" if isinstance(error, TooLongError) else "cannot"
        empty = Outcome(None, None, list(self.sample.gold))
        return self.record(empty, spent, None) | {"status": status, "note": str(error)}


@dataclass
class Lap:
    """Time and tokens since the last record of a sample."""

    clock: Clock
    start: float = field(default_factory=time.perf_counter)
    before: tuple[float, int, int] = (0.0, 0, 0)

    def lap(self) -> dict[str, Any]:
        """What was spent since."""
        now = time.perf_counter()
        clock = self.clock
        after = (clock.model_s, clock.new_tokens, clock.truncated_tokens)
        model_s, new, truncated = (b - a for a, b in zip(self.before, after, strict=True))
        spent = {"prompt_tokens": clock.prompt_tokens, "new_tokens": new, "truncated_tokens": truncated}
        spent |= {"seconds": now - self.start, "model_s": model_s, "at_once": 1}
        self.start = now
        self.before = after
        return spent


@dataclass
class Meter:
    """How far a run is, in characters; several samples may be under way."""

    done_samples: int
    samples: int
    advance: Advance
    done: int = 0
    _within: dict[int, int] = field(default_factory=dict)

    def begins(self, work: Work) -> Callable[[int], None]:
        """What the stream of a sample tells its progress to."""
        self._within[id(work)] = 0
        what = f"{work.entry.task.name} {work.subject.name}"

        def tick(chars: int) -> None:
            self._within[id(work)] = min(work.weight, self._within[id(work)] + chars)
            words = f"{what}, {self.done_samples}/{self.samples} samples"
            self.advance(self.done + sum(self._within.values()), words)

        tick(0)
        return tick

    def ends(self, work: Work) -> None:
        """A sample is done."""
        del self._within[id(work)]
        self.done += work.weight
        self.done_samples += 1
