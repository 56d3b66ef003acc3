"""key_value: a list of random keys and values, and one of the values asked for at the end.

There is no filler: all that was read may be asked for, so the memory's room is what is trained, and no segment may be
written more than once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlong.errors import ConfigError
from everlong.train.data.encoding import EncodedRow, Span, beginning, encoded
from everlong.train.data.rows import row
from everlong.train.data.sample import Example
from everlong.train.data.task import TrainingTask, check_range, check_sizes

PAIR = " The value of {key} is {value}."
QUESTION = " What is the value of {key}? The value of {key} is"
HELP = {
    "key_digits": "digits of a key; no key comes twice in a sample",
    "value_digits": "digits of a value",
    "language": "loss weight of all other tokens together, beside the answer's of 1",
}


@dataclass(frozen=True, kw_only=True)
class KeyValue(TrainingTask):
    """As many pairs as fit, and the value of one."""

    name = "key_value"
    key_digits: int = field(default=3, metadata={"help": HELP["key_digits"]})
    value_digits: int = field(default=5, metadata={"help": HELP["value_digits"]})
    language: float = field(default=0.1, metadata={"help": HELP["language"]})

    def __post_init__(self) -> None:
        check_range(1, 18, HELP["key_digits"], key_digits=self.key_digits)
        check_range(1, 18, HELP["value_digits"], value_digits=self.value_digits)
        check_range(0, math.inf, HELP["language"], language=self.language)

    def samples(self, tokenizer: Any, segment: int, length: int, seed: int, index: int) -> Example:
        """Pairs, question and answer: at most a random number of tokens between half of `length` and `length`."""
        check_sizes(segment, length)
        rng = self.rng(seed, index)
        begin = beginning(tokenizer)
        asked = (_number(rng, self.key_digits), _number(rng, self.value_digits))
        question, known = _question(*asked)
        pair, end = encoded(tokenizer, [PAIR.format(key=asked[0], value=asked[1]), question])
        fixed = len(begin) + len(pair.ids) + len(end.ids)
        if fixed > length:
            raise ConfigError(f"length={length}: too short for a pair and a question; give at least {fixed}")
        left = rng.randint(max(fixed, -(-length // 2)), length) - fixed
        pairs = self._pairs(tokenizer, asked, left // len(pair.ids), left + len(pair.ids), rng)
        pieces = [begin, pairs.piece({}), end.piece({known: 1.0})]
        return row(pieces, segment, 1.0, self.language, rng, [end.tokens(known)])

    def texts(self) -> Iterator[str]:
        """A pair and a question."""
        yield PAIR.format(key="0123456789", value="0123456789")
        yield QUESTION.format(key="0")

    def _pairs(self, tokenizer: Any, asked: tuple[str, str], count: int, room: int, rng: random.Random) -> EncodedRow:
        """The asked pair among at most `count` others with other keys, in at most `room` tokens."""
        low = 10 ** (self.key_digits - 1)
        high = 10**self.key_digits
        if count >= high - low:
            raise ConfigError(f"key_digits={self.key_digits}: too few for {count + 1} different keys; give more")
        keys = [key for key in map(str, rng.sample(range(low, high), count + 1)) if key != asked[0]][:count]
        pairs = [(key, _number(rng, self.value_digits)) for key in keys]
        pairs.insert(rng.randint(0, count), asked)
        while len((found := _list(tokenizer, pairs)).ids) > room:
            pairs.remove(next(pair for pair in pairs if pair != asked))
        return found


def _list(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> EncodedRow:
    return encoded(tokenizer, ["".join(PAIR.format(key=key, value=value) for key, value in pairs)])[0]


def _number(rng: random.Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _question(key: str, value: str) -> tuple[str, Span]:
    """The question with its answer, and where in it the value stands."""
    whole = f"{QUESTION.format(key=key)} {value}"
    return whole, (len(whole) - len(value), len(whole))
