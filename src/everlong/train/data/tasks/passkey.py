"""passkey: digits hidden in five dull sentences that repeat, asked for at the end.

The prompt of Landmark Attention (arXiv 2305.16300) and Infini-attention (arXiv 2404.07143, section 3.2), and that of
`everlong eval passkey`. As the filler repeats, one segment of it written w times is close to w segments of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from everlong.text.haystack import DULL
from everlong.train.data.hidden import HiddenKeys, sentences
from everlong.train.data.rows import Filler


@dataclass(frozen=True, kw_only=True)
class PasskeyExamples(HiddenKeys):
    """One key in dull filler."""

    name = "passkey"

    def filler(self, tokenizer: Any, tokens: int, rng: random.Random) -> Filler:
        """The five sentences, over and over."""
        return sentences(tokenizer, DULL, tokens, rng)

    def texts(self) -> Iterable[str]:
        """With the five sentences."""
        return (*super().texts(), *DULL)
