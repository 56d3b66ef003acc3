"""Which streams read how many tokens in the next forward: answers first, then readers in turn. No tensors here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TOKENS = 512
"""Tokens of one forward at most, unless said otherwise."""


@dataclass(frozen=True)
class Need:
    """What a stream has to read: `tokens` of a prompt, or (`writes`) the one token that it drew."""

    key: int
    tokens: int
    writes: bool = False


class Scheduler:
    """Shares out `tokens` per step. Nobody waits for ever: who got nothing, or less than it needs, comes before others.

    Answers come before prompts, so that a long text that is read holds nobody up for more than one forward.
    """

    def __init__(self, tokens: int = TOKENS) -> None:
        self.tokens = tokens
        self._served: dict[int, int] = {}
        self._step = 0

    def plan(self, needs: Iterable[Need]) -> dict[int, int]:
        """How many tokens each stream reads in this step, by key; only those that read any."""
        waiting = [need for need in needs if need.tokens > 0]
        keys = {need.key for need in waiting}
        self._served = {key: step for key, step in self._served.items() if key in keys}
        # Whoever was served longest ago comes first; a new one has waited since before the first step.
        waiting.sort(key=lambda need: (not need.writes, self._served.get(need.key, -1)))
        self._step += 1
        left = self.tokens
        found: dict[int, int] = {}
        for need in waiting:
            if taken := min(need.tokens, left):
                found[need.key] = taken
                self._served[need.key] = self._step
                left -= taken
        return found
