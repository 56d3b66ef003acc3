"""How likely a token was that was written, and which were the likeliest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class TokenOdds:
    """A token with its natural log-probability, and the likeliest tokens in its place with theirs, best first."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@torch.inference_mode()
def odds_of(logits: Float[Tensor, " vocabulary"], token: int, likeliest: int) -> TokenOdds:
    """The odds of a token as the model gives them, before any setting of the sampling."""
    logprobs = logits.float().log_softmax(-1)
    best, ids = logprobs.topk(min(likeliest, len(logprobs)))
    return TokenOdds(token, float(logprobs[token]), tuple(zip(ids.tolist(), best.tolist(), strict=True)))
