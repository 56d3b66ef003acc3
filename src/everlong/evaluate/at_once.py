"""Many samples at once: an engine reads their texts and writes their answers together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from everlong.engine.engine import Engine, GenerationRequest
from everlong.errors import CapabilityError
from everlong.evaluate.plan import Entry, Plain, Subject
from everlong.evaluate.stream import Clock, MethodStream
from everlong.evaluate.task import Task
from everlong.evaluate.work import Meter, Work
from everlong.methods.base import Method

Opened = Callable[[Method, Clock], AbstractContextManager[MethodStream]]
"""Gives an empty stream of a method."""


def why_alone(entry: Entry, subject: Subject) -> str | None:
    """Why the samples of a task are run one at a time on this method; None where many are run at once."""
    if isinstance(subject, Plain):
        return f"{subject.name} (has no engine)"
    if not subject.streams:
        return f"{subject.name} (scores by running the model anew)"
    if type(entry.task).run is not Task.run:
        return f"{entry.task.name} (asks for more than one answer)"
    return None


class RunningSample:
    """A sample whose text is being read, or whose answer is being written."""

    def __init__(self, work: Work, tick: Callable[[int], None]) -> None:
        self.work = work
        self._clock = Clock(tick=tick)
        self._open = ExitStack()
        self._stream: MethodStream | None = None
        self._request: GenerationRequest | None = None
        self._refused: CapabilityError | None = None
        self._own_s = 0.0
        """Seconds that it took for itself: opening the stream and judging the answer."""

    def begin(self, opened: Opened, engine: Engine) -> None:
        """Open a stream, and let the engine write on it."""
        start = time.perf_counter()
        method = self.work.subject
        sample = self.work.sample
        assert isinstance(method, Method)
        try:
            self._stream = self._open.enter_context(opened(method, self._clock))
            pieces = self._stream.pieces(sample.context, sample.question, sample.max_new_tokens)
            limits = {"max_new_tokens": sample.max_new_tokens, "stop": sample.stop}
            self._request = engine.submit(self._stream.session, pieces=pieces, **limits)
        except CapabilityError as error:
            self._refused = error
        self._own_s = time.perf_counter() - start

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._request is None or self._request.done

    def record(self, at_once: int) -> dict[str, Any]:
        """The record of one that is done; what is no CapabilityError is raised."""
        request = self._request
        error = self._refused if request is None else request.error
        if error is not None and not isinstance(error, CapabilityError):
            raise error
        start = time.perf_counter()
        model_s = 0.0 if request is None else request.seconds
        if request is None or request.result is None or self._stream is None:
            assert error is not None
            return self.work.unanswered(error, self._spent(model_s, at_once))
        written = len(request.result.token_ids)
        self._clock.prompt_tokens = self._stream.seen_tokens - written
        self._clock.new_tokens = written
        self._clock.tick(len(self.work.sample.question))
        outcome = self.work.entry.task.judged(request.result.text, self.work.sample)
        self._own_s += time.perf_counter() - start
        return self.work.record(outcome, self._spent(model_s, at_once), self._stream.report())

    def _spent(self, model_s: float, at_once: int) -> dict[str, Any]:
        clock = self._clock
        spent = {"prompt_tokens": clock.prompt_tokens, "new_tokens": clock.new_tokens, "truncated_tokens": 0}
        return spent | {"seconds": self._own_s + model_s, "model_s": model_s, "at_once": at_once}

    def close(self) -> None:
        """Close its stream."""
        self._open.close()


def answered(
    works: Iterable[Work], opened: Opened, meter: Meter, at_once: int, chunk: int
) -> Iterator[tuple[Work, dict[str, Any]]]:
    """Each sample with its record as soon as it is answered, `at_once` being under way; whichever ends first, first."""
    engine = Engine(tokens=chunk + at_once)
    waiting = iter(works)
    running: list[RunningSample] = []
    try:
        while True:
            while len(running) < at_once and (work := next(waiting, None)) is not None:
                running.append(RunningSample(work, meter.begins(work)))
                running[-1].begin(opened, engine)
            if not running:
                return
            engine.step()
            for one in [one for one in running if one.done]:
                found = one.record(at_once)
                running.remove(one)
                one.close()
                yield one.work, found
    finally:
        for one in running:
            one.close()
