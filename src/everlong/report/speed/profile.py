"""Where the CPU time of a decoded token goes.

Functions are timed while they stand in for the real ones, each without what is timed inside it. Where a decoder runs
from its list (hooks/program/), products, norms and most attention are inside of C calls: products are run once more
alone, over all weights, then all else but attention, and what is left of the calls' time is attention's.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from everlong.cache import step as cache_step
from everlong.cache.step import ForwardPlan
from everlong.cache.stream import CachedStream
from everlong.hooks import replacement
from everlong.hooks.program.switch import switch_of
from everlong.methods.blocks import step as blocks_step
from everlong.models.internals import decoder_of
from everlong.ops import packed
from everlong.report.speed.readers import EverlongReader
from everlong.report.speed.timed import Times, timed

LINEARS = "linears"
ATTENTION = "attention"
MEMORY = "memory"
OTHER = "norms"
FRAMEWORK = "framework"
TOTAL = "total"
_IN_C = "in C"


class Stopwatch:
    """Times by label, of functions that are timed while they run."""

    def __init__(self) -> None:
        self.times: dict[str, Times] = defaultdict(lambda: Times(0.0, 0.0))
        self._inside: list[Times] = []

    @contextmanager
    def timing(self, owner: Any, name: str, label: str) -> Iterator[None]:
        """While this lasts, `owner.name` is timed under `label`, without what is timed inside it."""
        before = getattr(owner, name)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return self._run(label, before, args, kwargs)

        setattr(owner, name, stand_in)
        try:
            yield
        finally:
            setattr(owner, name, before)

    def _run(self, label: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._inside.append(Times(0.0, 0.0))
        cpu = time.process_time()
        wall = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            whole = Times(time.perf_counter() - wall, time.process_time() - cpu)
            self.times[label] = _sum(self.times[label], _without(whole, self._inside.pop()))
            if self._inside:
                self._inside[-1] = _sum(self._inside[-1], whole)


def profiled(reader: EverlongReader, model: Any, ids: Sequence[int], repeats: int) -> dict[str, float]:
    """CPU milliseconds of a decoded token by what they went into; medians over samples."""
    program = switch_of(decoder_of(model)).made
    samples = []
    for _ in range(repeats):
        reader.back()
        samples.append(_sample(reader, program, ids))
    found = {label: statistics.median(sample[label] for sample in samples) for label in samples[0]}
    return {label: round(1e3 * seconds / len(ids), 3) for label, seconds in found.items()}


def _sample(reader: EverlongReader, program: Any, ids: Sequence[int]) -> dict[str, float]:
    watch = Stopwatch()
    with ExitStack() as stack:
        for owner in (cache_step, blocks_step):
            stack.enter_context(watch.timing(owner, "attend", ATTENTION))
        for owner, name in (
            (ForwardPlan, "attend"),
            (ForwardPlan, "write"),
            (ForwardPlan, "token_tables"),
            (CachedStream, "begin"),
            (CachedStream, "commit"),
        ):
            stack.enter_context(watch.timing(owner, name, MEMORY))
        for owner in (torch.nn.functional, packed):
            stack.enter_context(watch.timing(owner, "linear", LINEARS))
        stack.enter_context(watch.timing(replacement, "plain_linear", LINEARS))
        if program is not None:
            stack.enter_context(watch.timing(program, "token", _IN_C))
        total = timed(lambda: reader.decode(ids)).cpu
    found = {label: watch.times[label].cpu for label in (LINEARS, ATTENTION, MEMORY, OTHER)}
    if program is not None:
        linears, others = (timed(lambda own=own: [program.alone(own) for _ in ids]).cpu for own in (True, False))
        found[LINEARS] += linears
        found[OTHER] += others
        found[ATTENTION] += max(0.0, watch.times[_IN_C].cpu - linears - others)
    found[FRAMEWORK] = total - sum(found.values())
    return found | {TOTAL: total}


def _sum(a: Times, b: Times) -> Times:
    return Times(a.wall + b.wall, a.cpu + b.cpu)


def _without(a: Times, b: Times) -> Times:
    return Times(a.wall - b.wall, a.cpu - b.cpu)
