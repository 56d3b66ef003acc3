"""ppl: how well each next token of a long text is predicted, by its position; nothing is generated.

The perplexity over books of StreamingLLM (arXiv 2309.17453, section 4.1, on PG19: Rae et al., arXiv 1911.05507), each
file read once from its beginning as one stream. Their one number over a concatenation of books is here one for each
book and each bin of positions: a method that loses its way shows where. LaTeX mathematics (folder `math`) stands in
for arXiv-math. The score is a mean probability, so that it lies in 0..1 and more is better; perplexity is 1 / score.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlong.errors import ConfigError, InputError, nearest
from everlong.evaluate.data import text
from everlong.evaluate.haystack import book
from everlong.evaluate.lengths import Names, at_least_one
from everlong.evaluate.stream import Stream
from everlong.evaluate.task import Outcome, Sample, Setting, Task
from everlong.text.tokenize import pieces


@dataclass(frozen=True)
class Ppl(Task):
    """Perplexity of books by position."""

    name = "ppl"
    source = "StreamingLLM, arXiv 2309.17453; PG19, arXiv 1911.05507"
    licence = "the files' own (Project Gutenberg: public domain)"
    metric = "geometric mean of the probabilities of the tokens (1 / perplexity)"
    needs = "data"
    scores_only = True
    folder: str = field(default="pg19", metadata={"help": "folder with *.txt or *.tex: pg19, books or math"})
    files: Names = field(default=(), metadata={"help": "names of files in it, ending left out or not; all if none"})
    tokens: int = field(default=4096, metadata={"help": "tokens that are read of each file, from its beginning"})
    first: int = field(default=0, metadata={"help": "the first so many tokens are read and not scored"})
    bin: int = field(default=1024, metadata={"help": "positions that share a figure"})

    def __post_init__(self) -> None:
        at_least_one(bin=self.bin)
        if not 0 <= self.first < self.tokens:
            raise ConfigError(f"first={self.first}: expected 0..{self.tokens - 1}; tokens={self.tokens} are read")

    def make_samples(self, setting: Setting) -> Iterator[Sample]:
        """One for each file."""
        for file in _chosen(setting.data.files(self.folder, "*.txt", "*.tex"), self.files, self.folder):
            found = itertools.chain.from_iterable(pieces([book(text(file))], setting.tokenizer, special=True))
            ids = list(itertools.islice(found, self.tokens))
            if len(ids) < self.first + 2:
                raise InputError(f"{file}: has {len(ids)} tokens, expected more than first={self.first}; leave it out")
            shown = setting.tokenizer.decode(ids, skip_special_tokens=True)
            yield Sample(file.stem, shown, group=self.folder, length=self.tokens, facts={"ids": ids})

    def run(self, stream: Stream, sample: Sample) -> Iterator[Outcome]:
        """The score of the text, with perplexity by position among the facts."""
        ids = sample.facts["ids"]
        parts = []
        more_chars = len(sample.context) / len(ids) - 1
        for part in stream.score(ids):
            parts.append(part.double().cpu())
            stream.clock.tick(round(more_chars * len(part)))
        yield self.judged_tokens(torch.cat(parts))

    def judged_tokens(self, logprobs: Tensor) -> Outcome:
        """The outcome for the natural log-probabilities of all tokens; NaN, that of a first token, never counts."""
        places = range(self.first - self.first % self.bin, len(logprobs), self.bin)
        bins = [_figures(logprobs, max(start, self.first), start + self.bin) for start in places]
        whole = _figures(logprobs, self.first, len(logprobs))
        score = None if whole["perplexity"] is None else 1 / whole["perplexity"]
        return Outcome(None, score, facts=whole | {"bins": bins})


def _figures(logprobs: Tensor, start: int, end: int) -> dict[str, Any]:
    """Sum of nats, tokens and perplexity of the places `start` .. `end - 1`."""
    nats = -logprobs[start:end]
    nats = nats[~nats.isnan()]
    total = float(nats.sum())
    n = len(nats)
    perplexity = math.exp(total / n) if n else None
    return {"start": start, "end": min(end, len(logprobs)), "nll_sum": total, "tokens": n, "perplexity": perplexity}


def _chosen(found: Sequence[Path], names: Sequence[str], folder: str) -> Sequence[Path]:
    """The files of these names in the order of the names; all if there are none. InputError for one that is missing."""
    known = {name: file for file in found for name in (file.name, file.stem)}
    for name in names:
        if name not in known:
            raise InputError(f"files={name}: not in {folder}; {nearest(name, [file.name for file in found])}")
    return [known[name] for name in names] or found
