"""What each test costs in CPU seconds, and a guard: over the limit it must say why it is worth it.

What counts is this process and the children that it waited for. The fixtures that a test shares with others have a
limit of their own, and count for each test that uses them, whichever came first and set them up. CPU time and not
wall time, for other programs do not count; and a slower machine has a higher limit, by a loop that is timed at the
start and again before a test fails.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Generator
from typing import Any

import pytest

LIMIT_S = 5.0
LOOP_S = 0.1
"""CPU seconds of `loop` where the limit was set: one of two cores of an AMD EPYC that has nothing else to do."""
MARKERS = ("heavy", "slow")


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


def loop() -> float:
    """CPU seconds of a fixed piece of plain Python."""
    begun, total = time.process_time(), 0
    for number in range(3_000_000):
        total += number % 7
    return time.process_time() - begun


def slowness() -> float:
    """How many times slower than where the limit was set this machine is now; at least 1."""
    return max(1.0, statistics.median(loop() for _ in range(3)) / LOOP_S)


class Guard:
    """The plugin that adds up what each test costs and fails one that costs more than it may."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.limit_s = limit_s
        self.slowness = slowness()
        self._shared: dict[object, float] = {}
        self._begun = 0.0
        self._for_all_s = 0.0

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A marker without a reason is an error."""
        for marker in item.iter_markers():
            if marker.name in MARKERS and not marker.kwargs.get("reason"):
                pytest.fail(f"{item.nodeid}: pytest.mark.{marker.name} needs a reason='...'", pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        """The count begins with the test."""
        self._begun, self._for_all_s = cpu_seconds(), 0.0
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """What a shared fixture costs is kept apart from what the first test costs."""
        begun = cpu_seconds()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self._shared[fixturedef] = cpu_seconds() - begun
                self._for_all_s += self._shared[fixturedef]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: pytest.CallInfo) -> Generator[None, Any, Any]:
        """The last report of a test that costs too much fails."""
        report = yield
        if call.when == "teardown" and report.passed and not any(map(item.get_closest_marker, MARKERS)):
            cost_s = max(cpu_seconds() - self._begun - self._for_all_s, self._shared_s(item))
            if self._is_too_much(cost_s):
                report.outcome, report.longrepr = "failed", self._message(item, cost_s)
        return report

    def _shared_s(self, item: Any) -> float:
        """CPU seconds of the shared fixtures that a test uses."""
        return sum(self._shared.get(found[-1], 0.0) for found in item._fixtureinfo.name2fixturedefs.values())

    def _is_too_much(self, cost_s: float) -> bool:
        if cost_s <= self.limit_s * self.slowness:
            return False
        self.slowness = max(self.slowness, slowness())
        return cost_s > self.limit_s * self.slowness

    def _message(self, item: pytest.Item, cost_s: float) -> str:
        slower = f" times {self.slowness:.1f}, as this machine is that much slower" if self.slowness > 1 else ""
        return (
            f"{item.nodeid} needs {cost_s:.1f} CPU seconds (or its shared fixtures do), "
            f"and a test may need {self.limit_s:g}{slower}. "
            "Make it cheaper (share a fixture, fewer tokens or cases), or mark it: "
            "@pytest.mark.heavy(reason='...') if each push needs it, @pytest.mark.slow(reason='...') "
            "if `make test-all` is often enough (then name it in CONTRIBUTING.md)"
        )
