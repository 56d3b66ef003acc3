"""Log-probabilities of one text read in several ways, and their ratios of perplexity with errors."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch

import everlong

PIECE = 512
"""Tokens that are one sample: the next piece is taken as independent."""


def nll_of(loaded: Any, method: Any, text: str, first: int, last: int, chunk: int) -> torch.Tensor:
    """-log p (nats, float64) of the tokens `first` .. `last` - 1 of a text, read from its beginning."""
    ids = loaded.tokenizer(text[: 8 * last], verbose=False)["input_ids"][:last]
    with everlong.Session(loaded, method, chunk=chunk) as session:
        return -session.score(ids)[first:].double()


def standard_error(difference: torch.Tensor) -> float:
    """Standard error of the mean of paired differences (nats) over pieces."""
    pieces = torch.stack([piece.mean() for piece in difference.split(PIECE)])
    return float(pieces.std() / len(pieces) ** 0.5)


def ratio(difference: torch.Tensor) -> dict[str, float]:
    """The ratio of two perplexities, for paired differences in nats, and its standard error."""
    found = math.exp(difference.mean())
    return {"ratio": round(found, 4), "error": round(found * standard_error(difference), 4)}


def trained_on(file: Path, data: Path) -> bool:
    """Whether this text, named after its number at Project Gutenberg, is one of those for training (10321 is)."""
    return any((data / "train_books" / f"{number}.txt").is_file() for number in re.findall(r"\d{3,}", file.stem))
