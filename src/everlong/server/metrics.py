"""What `/metrics` says: requests, tokens, how long clients wait, and what is open."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The figures of one server, in the form of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        given = {"registry": self.registry}
        self.requests = Counter("everlong_requests", "Requests by route and status.", ("route", "status"), **given)
        self.read_tokens = Counter("everlong_prompt_tokens", "Tokens of prompts that were read.", **given)
        self.reused_tokens = Counter("everlong_cached_tokens", "Tokens of prompts that needed no reading.", **given)
        self.written_tokens = Counter("everlong_completion_tokens", "Tokens that were written.", **given)
        self.document_tokens = Counter("everlong_document_tokens", "Tokens of documents that were read.", **given)
        self.dropped_tokens = Counter("everlong_dropped_tokens", "Tokens that sessions have lost.", **given)
        self.first_s = Histogram(
            "everlong_first_piece_seconds", "Until the first piece of an answer.", buckets=_SECONDS, **given
        )
        self.gap_s = Histogram("everlong_gap_seconds", "Between two pieces of an answer.", buckets=_SECONDS, **given)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for when the metrics are."""
        Gauge(f"everlong_{name}", about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All figures as Prometheus reads them."""
        return generate_latest(self.registry)


class Pulse:
    """Takes down when the pieces of an answer come."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last = time.monotonic()
        self._begun = False

    def beat(self) -> None:
        """A piece has come."""
        now = time.monotonic()
        kind = self._metrics.gap_s if self._begun else self._metrics.first_s
        kind.observe(now - self._last)
        self._begun = True
        self._last = now
