"""needles: the pass keys of several people hidden in dull filler; one of them, or each, is asked for at the end.

Which one is only known when all have been read, so the memory must tell the keys apart by their names. A sample with a
single key has no names, as in `passkey`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from everlong.text.haystack import DULL, NAMES
from everlong.train.data.hidden import HiddenKeys, sentences
from everlong.train.data.rows import Filler
from everlong.train.data.task import check_range

NEEDLES_HELP = "keys in a sample, each with the name of its owner; or [fewest, most], drawn by chance"


@dataclass(frozen=True, kw_only=True)
class Needles(HiddenKeys):
    """Several keys with names in dull filler."""

    name = "needles"
    needles: int | tuple[int, int] = field(default=2, metadata={"help": NEEDLES_HELP})

    def __post_init__(self) -> None:
        fewest, most = self.needle_counts
        check_range(1, len(NAMES), NEEDLES_HELP, needles=fewest)
        check_range(max(2, fewest), len(NAMES), NEEDLES_HELP, needles=most)
        super().__post_init__()

    @property
    def needle_names(self) -> tuple[str, ...]:
        """All names."""
        return NAMES

    @property
    def needle_counts(self) -> tuple[int, int]:
        """As the option says."""
        return (self.needles, self.needles) if isinstance(self.needles, int) else self.needles

    def filler(self, tokenizer: Any, tokens: int, rng: random.Random) -> Filler:
        """The five sentences, over and over."""
        return sentences(tokenizer, DULL, tokens, rng)

    def texts(self) -> Iterable[str]:
        """With the five sentences."""
        return (*super().texts(), *DULL)
