"""How the next token is chosen from the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Sampling:
    """The settings of one answer; ConfigError for a wrong one and for one that would have no effect."""

    max_new_tokens: int = 256
    """Tokens written at most."""
    temperature: float = 0.0
    """0 takes the likeliest token; above, logits are divided by it before one is drawn."""
    top_p: float = 1.0
    """Draws among the likeliest tokens whose probabilities first reach this sum."""
    top_k: int = 0
    """Draws among this many likeliest tokens; 0 means all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens less likely that stand among the recent ones (CTRL, arXiv 1909.05858)."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""
    ends: tuple[int, ...] = ()
    """Token ids that end the answer, besides the model's own end tokens."""
    seed: int | None = None
    """The same seed gives the same tokens; None draws from torch's own generator."""

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: must be at least 1 (tokens to write)")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature}: must be 0 (the likeliest token) or above")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p}: must be above 0 and at most 1 (1 means all tokens)")
        if self.top_k < 0:
            raise ConfigError(f"top_k={self.top_k}: must be at least 0 (0 means all tokens)")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty={self.repetition_penalty}: must be above 0 (1 changes nothing)")
        if not all(stop) or not all(isinstance(s, str) for s in stop):
            raise ConfigError(f"stop={stop!r}: each stop string needs a character; leave empty ones out")
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        for name, value, neutral in (("top_p", self.top_p, 1), ("top_k", self.top_k, 0)):
            if self.temperature == 0 and value != neutral:
                raise ConfigError(f"{name}={value}: has no effect at temperature=0; set a temperature above 0")

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The random numbers of one answer: seeded, or None for torch's own."""
        return None if self.seed is None else torch.Generator(device).manual_seed(self.seed)

    def pick(
        self,
        logits: Float[Tensor, " vocabulary"],
        recent: Int[Tensor, " recent"],
        generator: torch.Generator | None = None,
    ) -> int:
        """The id of the next token; `recent` are the ids that the repetition penalty looks at."""
        logits = logits.float()
        if not torch.isfinite(logits.max()):
            raise ModelError("the logits are not finite: the model overflowed; load it with dtype=float32")
        if self.repetition_penalty != 1:
            logits = penalised(logits, recent, self.repetition_penalty)
        if self.temperature == 0:
            return int(logits.argmax())
        logits = (logits - logits.max()) / self.temperature
        ranked, order = logits.sort(descending=True)
        kept = ranked[: self.top_k or None].softmax(-1)
        kept = kept * (kept.cumsum(-1) - kept < self.top_p)
        return int(order[torch.multinomial(kept, 1, generator=generator)])


def penalised(
    logits: Float[Tensor, " vocabulary"], recent: Int[Tensor, " recent"], penalty: float
) -> Float[Tensor, " vocabulary"]:
    """Logits where each token of `recent` is divided by the penalty, or multiplied where it is negative."""
    ids = recent.to(logits.device).unique()
    scores = logits[ids]
    return logits.index_copy(0, ids, torch.where(scores < 0, scores * penalty, scores / penalty))
