"""natural: a pass key hidden in the text of books, asked for at the end; or one of several, by the name of its owner.

The filler is a part of all books in a row, with their white space made single spaces as `everlong eval passkey -o
filler=books` has it; a needle stands behind a token that ends a sentence.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from everlong.text.haystack import NAMES
from everlong.train.data.corpus import CACHE_HELP, Corpus, book_files, opened, tokenised
from everlong.train.data.hidden import HiddenKeys
from everlong.train.data.rows import Filler
from everlong.train.data.task import Progress, check_range

NEEDLES_HELP = "keys in a sample: 1 without a name, more with names; or [fewest, most], drawn by chance"
SENTENCE_TOKENS = 256
"""The end of a sentence is looked for among so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Natural(HiddenKeys):
    """One key or several in the text of books."""

    name = "natural"
    data: str = field(metadata={"help": "folder with books, *.txt"})
    cache: str = field(default="", metadata={"help": CACHE_HELP})
    needles: int | tuple[int, int] = field(default=1, metadata={"help": NEEDLES_HELP})

    def __post_init__(self) -> None:
        fewest, most = self.needle_counts
        check_range(1, len(NAMES), NEEDLES_HELP, needles=fewest)
        check_range(fewest, len(NAMES), NEEDLES_HELP, needles=most)
        super().__post_init__()

    @property
    def needle_names(self) -> tuple[str, ...]:
        """All names, or none for a single needle."""
        return NAMES if self.needle_counts[1] > 1 else ()

    @property
    def needle_counts(self) -> tuple[int, int]:
        """As the option says."""
        return (self.needles, self.needles) if isinstance(self.needles, int) else self.needles

    def texts(self) -> tuple[()]:
        """None: books have any words."""
        return ()

    def prepare(self, tokenizer: Any, progress: Progress | None = None) -> None:
        """Tokenise the books, if that was not done before."""
        tokenised(book_files(self.data), tokenizer, self.cache, flat=True, progress=progress)

    def filler(self, tokenizer: Any, tokens: int, rng: random.Random) -> Filler:
        """The tokens before a random end of a sentence, from the last book again where the first one has no more."""
        corpus: Corpus = opened(tokenizer, self.data, self.cache, flat=True)
        ends = _sentence_ends(tokenizer)
        at = rng.randrange(len(corpus.tokens))
        found = ends[corpus.around(at, SENTENCE_TOKENS)].nonzero()[0]
        end = at + (int(found[0]) + 1 if len(found) else 0)
        ids = corpus.around(end - tokens, tokens)
        return Filler(ids, np.concatenate([[0], ends[ids].nonzero()[0] + 1]))


@functools.lru_cache(maxsize=4)
def _sentence_ends(tokenizer: Any) -> Bool[np.ndarray, " V"]:
    """Whether each token of the vocabulary ends with a full stop, a question mark or an exclamation mark."""
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return np.array([word is not None and word.endswith((".", "!", "?")) for word in words])
