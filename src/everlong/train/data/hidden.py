"""Pass keys hidden in filler, one of which is asked for behind it: what passkey, needles and natural have in common.

The question stands at the end of a sample of random length, so it is not aligned to segments; the needle that it asks
for at a place drawn evenly from all of the filler, or near the question. The loss weights are those of the recipe in
../shared/methods/infini.md: the answer, half as much the key's second mention in a needle, a little all other tokens.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from everlong.errors import ConfigError
from everlong.text.haystack import OPENING, PAPER_OPENING, key_needle, key_question
from everlong.train.data.encoding import EncodedPiece, EncodedRow, Span, beginning, encoded, standing
from everlong.train.data.rows import Filler, row
from everlong.train.data.sample import Example
from everlong.train.data.task import TrainingTask, check_range, check_sizes

OPENINGS = {"paper": (PAPER_OPENING,), "everlong": (OPENING,), "either": (PAPER_OPENING, OPENING), "none": ()}
ALIKE_DIGITS = 4
ALIKE_MOST = 4**8
"""Keys of few digits are all listed before some are drawn."""
HELP = {
    "digits": "digits of a key",
    "alike": "share of the samples whose keys are made of four digits, so that runs of digits recur in other keys",
    "near": "share of the samples whose needle stands near the question",
    "near_tokens": "the needle is then within so many tokens before the question",
    "repeat": "segments that are all filler are written up to so many times, log-uniform by row (1: once)",
    "second_mention": "loss weight of the second mention of a key in its needle (answer: 1)",
    "language": "loss weight of all other tokens together, beside the answer's of 1",
    "opening": "the first words: paper (of the pass-key papers), everlong (of everlong eval passkey), either or none",
    "questions": "one: a key drawn by chance is asked for; all: each of them, in an order drawn by chance",
}


@dataclass(frozen=True, kw_only=True)
class HiddenKeys(TrainingTask):
    """Keys in needles; a subclass says how many, and what surrounds them."""

    digits: int = field(default=5, metadata={"help": HELP["digits"]})
    alike: float = field(default=0.0, metadata={"help": HELP["alike"]})
    near: float = field(default=0.0, metadata={"help": HELP["near"]})
    near_tokens: int = field(default=0, metadata={"help": HELP["near_tokens"]})
    repeat: float = field(default=1.0, metadata={"help": HELP["repeat"]})
    second_mention: float = field(default=0.5, metadata={"help": HELP["second_mention"]})
    language: float = field(default=0.1, metadata={"help": HELP["language"]})
    opening: Literal["paper", "everlong", "either", "none"] = field(default="paper", metadata={"help": HELP["opening"]})
    questions: Literal["one", "all"] = field(default="one", metadata={"help": HELP["questions"]})

    def __post_init__(self) -> None:
        check_range(1, 18, HELP["digits"], digits=self.digits)
        check_range(0, 1, HELP["alike"], alike=self.alike)
        check_range(0, 1, HELP["near"], near=self.near)
        check_range(1, math.inf, HELP["repeat"], repeat=self.repeat)
        check_range(0, math.inf, HELP["second_mention"], second_mention=self.second_mention)
        check_range(0, math.inf, HELP["language"], language=self.language)
        if self.opening not in OPENINGS:
            raise ConfigError(f"opening={self.opening}: expected one of {', '.join(OPENINGS)}")
        if self.questions not in ("one", "all"):
            raise ConfigError(f"questions={self.questions}: expected one or all ({HELP['questions']})")
        if (self.near > 0) != (self.near_tokens > 0):
            raise ConfigError(f"near={self.near:g}, near_tokens={self.near_tokens}: give both, or leave both out")
        if self.alike and not len(self.needle_names) <= ALIKE_DIGITS**self.digits <= ALIKE_MOST:
            raise ConfigError(f"alike={self.alike:g}: needs 2 to 8 digits; leave it out, or change digits")
        if len(self.needle_names) > 9 * 10 ** (self.digits - 1):
            raise ConfigError(f"digits={self.digits}: too few for {len(self.needle_names)} different keys; give more")

    @property
    def needle_names(self) -> tuple[str, ...]:
        """Whom several needles are drawn for; a single one has no name."""
        return ()

    @property
    def needle_counts(self) -> tuple[int, int]:
        """The fewest and the most needles that a sample has."""
        return 1, 1

    def filler(self, tokenizer: Any, tokens: int, rng: random.Random) -> Filler:
        """So many tokens of filler, cut at a random place in front, and behind where a sentence ends."""
        raise NotImplementedError

    def samples(self, tokenizer: Any, segment: int, length: int, seed: int, index: int) -> Example:
        """Opening, filler with needles in it, questions with answers: between half of `length` and `length` tokens."""
        check_sizes(segment, length)
        rng = self.rng(seed, index)
        start, needles, questions, answers = self._words(tokenizer, rng)
        fixed = sum(map(len, [*start, *needles, *questions]))
        if fixed > length:
            raise ConfigError(f"length={length}: too short for {self.name}'s words alone; give at least {fixed}")
        filler = self.filler(tokenizer, rng.randint(max(fixed, -(-length // 2)), length) - fixed, rng)
        placed = list(zip(self._places(filler, needles, rng), needles, strict=True))
        pieces = [*start, *filler.around(placed), *questions]
        return row(pieces, segment, self.repeat, self.language, self.rng(seed, index, "repeat"), answers)

    def texts(self) -> Iterable[str]:
        """The openings, and needle and question for each name; keys have any digits."""
        yield from OPENINGS[self.opening]
        for name in (*self.needle_names, *([""] if self.needle_counts[0] == 1 else [])):
            yield from (key_needle(name, "0123456789"), key_question(name))

    def _words(
        self, tokenizer: Any, rng: random.Random
    ) -> tuple[list[EncodedPiece], list[EncodedPiece], list[EncodedPiece], list[Span]]:
        """What stands before the filler, the needles (the asked one first), questions with answers, where these are."""
        names = self._names(rng)
        keys = self._keys(len(names), rng)
        start = [beginning(tokenizer)]
        if openings := OPENINGS[self.opening]:
            (opening,) = standing(tokenizer, rng.choice(openings), begin=True)
            start.append(opening.piece({}))
        order = list(range(len(names)))
        if self.questions == "all":
            rng.shuffle(order)
        asked = [key_question(names[n]) + " " for n in (order if self.questions == "all" else order[:1])]
        said = [question + keys[n] for n, question in zip(order, asked, strict=False)]
        found = encoded(tokenizer, [*map(key_needle, names, keys), *said])
        hidden = [self._hidden(e, key_needle(n, k), k) for e, n, k in zip(found, names, keys, strict=False)]
        spans = [(len(question), len(question) + self.digits) for question in asked]
        ends = list(zip(found[len(names) :], spans, strict=True))
        return start, hidden, [e.piece({s: 1.0}) for e, s in ends], [e.tokens(s) for e, s in ends]

    def _names(self, rng: random.Random) -> list[str]:
        """Whose the needles of a sample are; nobody's where there is one alone."""
        fewest, most = self.needle_counts
        count = fewest if fewest == most else rng.randint(fewest, most)
        return [""] if count == 1 else rng.sample(self.needle_names, count)

    def _keys(self, count: int, rng: random.Random) -> list[str]:
        """Different keys, none of which begins with 0."""
        # no number is drawn where the option is off, so that recipes without it have the samples they always had
        if self.alike and rng.random() < self.alike:
            few = rng.sample("123456789", ALIKE_DIGITS)
            return ["".join(key) for key in rng.sample(list(itertools.product(few, repeat=self.digits)), count)]
        low = 10 ** (self.digits - 1)
        return [str(key) for key in rng.sample(range(low, 10 * low), count)]

    def _hidden(self, needle: EncodedRow, text: str, key: str) -> EncodedPiece:
        """The needle, with a weight of its own for the second mention of its key."""
        _, second = (found.span() for found in re.finditer(key, text))
        return needle.piece({second: self.second_mention})

    def _places(self, filler: Filler, needles: Sequence[EncodedPiece], rng: random.Random) -> list[int]:
        """The place of each needle in the filler; all needles may stand behind the first one and it still is near."""
        tokens = len(filler.ids)
        room = self.near_tokens - sum(map(len, needles))
        first = 0
        if rng.random() < self.near:
            if room < 0:
                wanted = self.near_tokens - room
                raise ConfigError(f"near_tokens={self.near_tokens}: too few for the needles; give at least {wanted}")
            first = max(0, tokens - room)
        places = [filler.near(rng.uniform(first, tokens), first)]
        return [*places, *(filler.near(rng.uniform(0, tokens)) for _ in needles[1:])]


def sentences(tokenizer: Any, texts: Sequence[str], tokens: int, rng: random.Random) -> Filler:
    """`tokens` of the texts, over and over; one of them, drawn by chance, is the last, and the first may be cut."""
    parts = [part.ids for part in standing(tokenizer, *texts)]
    cycle = np.concatenate(parts)
    ends = np.array(list(itertools.accumulate(map(len, parts))))
    start = int(rng.choice(ends)) - tokens
    at = np.arange(start, start + tokens + 1) % len(cycle)
    return Filler(cycle[at[:-1]], np.isin(at, ends % len(cycle)).nonzero()[0])
