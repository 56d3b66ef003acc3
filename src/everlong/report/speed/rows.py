"""What a measurement came to: one row for each thing, method and context, with its peers' figures and ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from everlong.report.speed.timed import Middle, Times, middle

UNITS = {"decode": "ms_per_token", "read": "tokens_per_s", "choice": "ms_per_token", "resume": "ms"}
"""What is measured, and in which unit."""


@dataclass(frozen=True)
class Figure:
    """The middle of a unit by wall clock and by CPU time, and their spreads (quartiles, as a share of the median)."""

    wall: float
    cpu: float
    spread: float
    cpu_spread: float


@dataclass(frozen=True)
class Compared(Figure):
    """A peer's figure; ratios are taken round by round, and above 1 everlong is faster."""

    ratio: float
    ratio_quartiles: tuple[float, float]
    cpu_ratio: float
    cpu_ratio_quartiles: tuple[float, float]


@dataclass(frozen=True)
class SpeedRow:
    """One measurement."""

    what: str
    method: str
    context: int
    """Tokens that were read before."""
    unit: str
    everlong: Figure
    peers: dict[str, Compared]
    tokens: int
    """Tokens of a sample."""
    repeats: int
    profile: dict[str, float] = field(default_factory=dict)
    """CPU milliseconds of a decoded token by what they went into (--profile)."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def row(what: str, method: str, context: int, tokens: int, taken: dict[str, list[Times]]) -> SpeedRow:
    """The row of what everlong and its peers took, round by round."""
    ours = taken["everlong"]
    peers = {name: _compared(what, ours, theirs, tokens) for name, theirs in taken.items() if name != "everlong"}
    return SpeedRow(what, method, context, UNITS[what], _figure(what, ours, tokens), peers, tokens, len(ours))


def _figure(what: str, taken: Sequence[Times], tokens: int) -> Figure:
    wall, cpu = (middle([_in_unit(what, seconds, tokens) for seconds in column]) for column in zip(*taken, strict=True))
    return Figure(wall.median, cpu.median, wall.spread, cpu.spread)


def _in_unit(what: str, seconds: float, tokens: int) -> float:
    return tokens / max(seconds, 1e-9) if UNITS[what] == "tokens_per_s" else 1e3 * seconds / tokens


def _compared(what: str, ours: Sequence[Times], theirs: Sequence[Times], tokens: int) -> Compared:
    pairs = list(zip(ours, theirs, strict=True))
    wall = middle([other.wall / max(own.wall, 1e-9) for own, other in pairs])
    cpu = middle([other.cpu / max(own.cpu, 1e-9) for own, other in pairs])
    figure = _figure(what, theirs, tokens)
    return Compared(**asdict(figure), **_ratio("", wall), **_ratio("cpu_", cpu))


def _ratio(prefix: str, found: Middle) -> dict[str, Any]:
    return {f"{prefix}ratio": found.median, f"{prefix}ratio_quartiles": (found.low, found.high)}
