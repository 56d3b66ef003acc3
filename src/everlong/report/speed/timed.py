"""Times of a piece of work, by the wall clock and in CPU time of all threads; their middle over many rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch


class Times(NamedTuple):
    """Seconds that something took."""

    wall: float
    cpu: float


class Middle(NamedTuple):
    """The median and the quartiles."""

    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def timed(work: Callable[[], Any]) -> Times:
    """How long `work` takes; a GPU is waited for."""
    cpu = time.process_time()
    wall = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def middle(values: Sequence[float]) -> Middle:
    """Median and quartiles of some values.

    >>> middle([1.0, 2.0, 3.0, 4.0, 5.0])
    Middle(low=2.0, median=3.0, high=4.0)
    """
    if len(values) < 2:
        return Middle(values[0], values[0], values[0])
    return Middle(*statistics.quantiles(values, n=4, method="inclusive"))
