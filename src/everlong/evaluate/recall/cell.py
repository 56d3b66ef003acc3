"""What a kind of fact is given to make a text from, and what it makes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from everlong.errors import ConfigError
from everlong.evaluate.haystack import Hidden, Size, fitting, hay

T = TypeVar("T")
OPENING = "This is a long text. Some facts stand in it, each only once. Keep them in mind.\n\n"
HEAD_TOKENS = 160
"""Tokens at the start without a fact: they may be sinks, which need no memory."""


@dataclass(frozen=True)
class Question:
    """What is asked of a text, and what is right."""

    text: str
    """Plain completion; it ends where the answer begins."""
    gold: tuple[str, ...]
    """What the answer is, with the space before it; several: all of them, in any order; none: the text says nothing."""
    facts: tuple[str, ...] = ()
    """The sentences that the answer follows from, as they stand in the text, each there once."""
    joint: str = ""
    """What stands between two answers, where there are several."""


@dataclass(frozen=True)
class RecallText:
    """A text and its questions."""

    context: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class RecallCell:
    """One text that is to be made."""

    rng: random.Random
    tokens: int
    """Of the text, one question and its answer."""
    tail: int
    """Tokens at the end without a fact."""
    count: Size
    size: Size
    """Of pieces within a text."""
    filler: Iterator[str]
    questions: int

    def room(self, questions: Sequence[Question]) -> int:
        """Tokens that the longest question and its answer leave for the text."""
        return self.tokens - max(self.count(q.text + q.joint.join(q.gold)) for q in questions)

    def depths(self, n: int, tokens: int) -> list[float]:
        """Places of `n` facts in `tokens` of filler: one in each n-th part of what lies between head and tail.

        0 is the start, 1 the end. In texts too short for both the head is a quarter at most, and the tail a half.
        """
        first = min(HEAD_TOKENS / tokens, 0.25)
        last = max(1 - self.tail / tokens, 0.5)
        return [first + (last - first) * (part + self.rng.random()) / n for part in range(n)]

    def hidden(self, sentences: Sequence[str], questions: Sequence[Question], opening: str = OPENING) -> RecallText:
        """The sentences in the filler, in their order, from the head to the tail."""
        room = self.room(questions)
        filler = room - self.size(opening) - sum(self.size(f" {sentence}") for sentence in sentences)
        places = self.depths(len(sentences), max(1, filler))
        facts = [Hidden(f" {sentence}", depth) for sentence, depth in zip(sentences, places, strict=True)]
        return RecallText(hay(self.filler, room, self.size, facts, opening), tuple(questions))

    def records(self, more: Iterator[str], tokens: int, opening: str) -> list[str]:
        """As many records as fit behind the opening."""
        return [record for record, _ in fitting(more, tokens - self.size(opening), self.size)]

    def asked(self, records: Sequence[str]) -> list[int]:
        """Which of the records are asked for: from the head to the tail, and then in no order.

        ConfigError if there are too few of them.
        """
        places = {round(depth * (len(records) - 1)) for depth in self.depths(self.questions, self.tokens)}
        if len(records) < self.questions or len(places) < self.questions:
            raise ConfigError(
                f"lengths={self.tokens}: {len(records)} records fit, too few for {self.questions} questions; give more"
            )
        return shuffled(self.rng, sorted(places))


def shuffled(rng: random.Random, values: Sequence[T]) -> list[T]:
    """The values in another order."""
    return rng.sample(values, len(values))
