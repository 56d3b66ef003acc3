"""books: language modelling on whole books, each window of them once before any comes again.

A row is a window of one book, or parts of several as documents that do not see each other. Some files may be held out
for testing. Each round through the books shuffles the windows and shifts them, so that they begin elsewhere.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64

from everlong.errors import ConfigError
from everlong.train.data.corpus import CACHE_HELP, Corpus, Part, book_files, opened, part_of, tokenised
from everlong.train.data.sample import Example
from everlong.train.data.task import Progress, TrainingTask, check_range, check_sizes

HELP = {
    "documents": "parts of so many books in a row, each a document of its own",
    "part": "which files: all, train (without those held out) or test (these)",
    "held_out": "share of the files that is held out, at least one (part=train or test)",
}


@dataclass(frozen=True, kw_only=True)
class Books(TrainingTask):
    """The next token of books."""

    name = "books"
    data: str = field(metadata={"help": "folder with books, *.txt"})
    cache: str = field(default="", metadata={"help": CACHE_HELP})
    documents: int = field(default=1, metadata={"help": HELP["documents"]})
    part: Part = field(default="all", metadata={"help": HELP["part"]})
    held_out: float = field(default=0.0, metadata={"help": HELP["held_out"]})

    def __post_init__(self) -> None:
        check_range(1, math.inf, HELP["documents"], documents=self.documents)
        check_range(0, 1, HELP["held_out"], held_out=self.held_out)
        if self.part not in ("all", "train", "test"):
            raise ConfigError(f"part={self.part}: expected all, train or test")
        if (self.part == "all") != (self.held_out == 0):
            raise ConfigError(
                f"part={self.part}, held_out={self.held_out:g}: give part=train or test with held_out > 0"
            )

    def samples(self, tokenizer: Any, segment: int, length: int, seed: int, index: int) -> Example:
        """`length` tokens, fewer only where a book has fewer."""
        check_sizes(segment, length)
        if 2 * self.documents > length:
            raise ConfigError(f"documents={self.documents}: too many for length={length}; give at most {length // 2}")
        corpus = opened(tokenizer, self.data, self.cache, part=self.part, held_out=self.held_out)
        rng = self.rng(seed, index)
        parts = list[np.ndarray]()
        for n, size in enumerate(_sizes(length, self.documents, rng)):
            window = self._window(corpus, length, seed, index * self.documents + n)
            start = rng.randint(0, max(0, len(window) - size))
            parts.append(window[start : start + size])
        document = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        loss = np.ones(len(document), np.float32)
        loss[np.diff(document, prepend=-1) > 0] = 0
        return Example(np.concatenate(parts), loss, np.ones_like(loss), document)

    def prepare(self, tokenizer: Any, progress: Progress | None = None) -> None:
        """Tokenise the books, if that was not done before."""
        files = part_of(book_files(self.data), self.part, self.held_out)
        tokenised(files, tokenizer, self.cache, progress=progress)

    def _window(self, corpus: Corpus, length: int, seed: int, number: int) -> Int64[np.ndarray, " T"]:
        """Window `number` of the endless row of rounds: `length` tokens of one book, or all of a shorter one."""
        tokens = np.diff(corpus.starts)
        ends = np.maximum(1, tokens // length).cumsum()
        lap, place = divmod(number, int(ends[-1]))
        chosen = int(_shuffled(int(ends[-1]), f"{self.name}/{seed}/{lap}")[place])
        b = int(np.searchsorted(ends, chosen, side="right"))
        nth = chosen - (int(ends[b - 1]) if b else 0)
        spare = int(tokens[b]) % length if tokens[b] > length else 0
        start = int(corpus.starts[b]) + self.rng(seed, lap, "shift", b).randint(0, spare) + nth * length
        return corpus.around(start, min(length, int(tokens[b])))


def _sizes(length: int, documents: int, rng: random.Random) -> list[int]:
    """Random tokens of each document, `length` in all; none gets less than half of its even share."""
    least = length // (2 * documents)
    rest = length - least * documents
    cuts = [0, *sorted(rng.randint(0, rest) for _ in range(documents - 1)), rest]
    return [least + after - before for before, after in itertools.pairwise(cuts)]


@functools.lru_cache(maxsize=8)
def _shuffled(count: int, seed: str) -> Int64[np.ndarray, " N"]:
    """The numbers below `count` in random order."""
    return np.array(random.Random(seed).sample(range(count), count), np.int64)
