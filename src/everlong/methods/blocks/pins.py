"""Pins: spans of a stream whose blocks are always attended to, or never given up for room."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from everlong.errors import ConfigError

Touched = Callable[[int, int], range]
"""The blocks that hold a token of `first` .. `end - 1`."""


@dataclass(frozen=True)
class Pin:
    """Tokens `first` .. `end - 1` of a stream, whose blocks every query sees (`always`) or that stay (`keep`)."""

    first: int
    end: int
    always: bool = True
    keep: bool = True

    def __post_init__(self) -> None:
        if not self.always and not self.keep:
            raise ConfigError("pin: neither always nor keep would have no effect; give at least one of them")

    def meets(self, first: int, end: int) -> bool:
        """Whether it shares a token with `first` .. `end - 1`."""
        return self.first < end and first < self.end


def with_pin(pins: Iterable[Pin], new: Pin) -> tuple[Pin, ...]:
    """The pins with `new`, which takes the place of one of the same span; in their order in the stream."""
    others = [p for p in pins if (p.first, p.end) != (new.first, new.end)]
    return tuple(sorted([*others, new], key=lambda p: (p.first, p.end)))


def held(pins: Iterable[Pin], touched: Touched, dropped: Collection[int]) -> tuple[frozenset[int], frozenset[int]]:
    """The blocks that every query attends to, and those never given up for room; dropped ones are neither."""
    pins = list(pins)
    always = {n for p in pins if p.always for n in touched(p.first, p.end)}
    kept = {n for p in pins if p.keep for n in touched(p.first, p.end)}
    return frozenset(always.difference(dropped)), frozenset(kept.difference(dropped))


def check(pinned: Collection[int], top_k: int) -> None:
    """ConfigError for more blocks that every query attends to than there are slots."""
    if len(pinned) > top_k:
        raise ConfigError(
            f"pin: {len(pinned)} blocks would always be attended to, and top_k={top_k} have room; pin a shorter span, "
            "unpin another, or pin with always=False (--no-always)"
        )
