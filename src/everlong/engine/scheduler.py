"""Which streams are open, and how many tokens each reads in the next forward. No tensors here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from everlong.errors import ConfigError

TOKENS = 512
"""Tokens of one forward at most, unless said otherwise."""
TURN = 64
"""Steps that a stream reads in before it gives way to one that waits, unless said otherwise."""


@dataclass(frozen=True)
class Need:
    """What a stream has to read: `tokens` of a prompt, or (`writes`) the one token that it drew."""

    key: int
    tokens: int
    writes: bool = False


class Scheduler:
    """Shares out `streams` open places (None: any number), and `tokens` in each step among those that have one.

    Nobody waits for ever. For a place streams stand in line; one that has read in `turn` steps gives way to those in
    line, prompts before answers, and stands at its end. Of the tokens answers get theirs before prompts, so that a long
    text that is read holds nobody up for more than one forward; one token is left to prompts. Among equals those come
    first that were served longest ago.
    """

    def __init__(self, tokens: int = TOKENS, streams: int | None = None, turn: int = TURN) -> None:
        for name, value in (("tokens", tokens), ("streams", streams), ("turn", turn)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be at least 1")
        self.tokens = tokens
        self.streams = streams
        self.turn = turn
        self._line: list[int] = []
        self._open: list[int] = []
        """Those that have a place, whoever got it first before others."""
        self._turns: dict[int, int] = {}
        """In how many steps each of them has read since it got its place."""
        self._writing: set[int] = set()
        self._served: dict[int, int] = {}
        """The step in which each stream read last, or was first seen."""
        self._step = 0

    def admit(self, keys: Iterable[int]) -> list[int]:
        """Which of all the streams that there are have a place in the next step."""
        there = dict.fromkeys(keys)
        self._open = [key for key in self._open if key in there]
        self._line = [key for key in self._line if key in there]
        known = {*self._open, *self._line}
        self._line += [key for key in there if key not in known]
        self._served = {key: self._served.get(key, self._step) for key in there}
        self._give_way()
        free = len(self._line) if self.streams is None else self.streams - len(self._open)
        admitted = self._line[:free]
        self._open += admitted
        self._turns = {key: self._turns.get(key, 0) for key in self._open}
        self._line = self._line[free:]
        return list(self._open)

    def _give_way(self) -> None:
        """Take the places of as many streams whose turn is over as are needed for those in line."""
        if self.streams is None:
            return
        over = [key for key in self._open if self._turns.get(key, 0) >= self.turn]
        over.sort(key=lambda key: key in self._writing)
        wanted = len(self._open) + len(self._line) - self.streams
        leaving = over[: max(0, min(wanted, len(self._line)))]
        self._open = [key for key in self._open if key not in leaving]
        self._turns = {key: self._turns[key] for key in self._open}
        self._line += leaving

    def plan(self, needs: Iterable[Need]) -> dict[int, int]:
        """How many tokens each stream reads in this step, by key; only those that read any."""
        waiting = [need for need in needs if need.tokens > 0]
        self._writing = {need.key for need in waiting if need.writes}
        waiting.sort(key=lambda need: self._served.setdefault(need.key, self._step))
        answers = [need for need in waiting if need.writes]
        prompts = [need for need in waiting if not need.writes]
        self._step += 1
        found: dict[int, int] = {}
        if self.tokens == 1:
            # Nothing can be left to prompts then, so that all take turns.
            self._share(waiting, 1, found)
            return found
        self._share(answers, self.tokens - 1 if prompts else self.tokens, found)
        self._share(prompts, self.tokens - sum(found.values()), found)
        return found

    def _share(self, needs: list[Need], tokens: int, found: dict[int, int]) -> None:
        """Give the tokens to the first of these that need some."""
        for need in needs:
            if taken := min(need.tokens, tokens):
                found[need.key] = taken
                self._served[need.key] = self._step
                self._turns[need.key] = self._turns.get(need.key, 0) + 1
                tokens -= taken
