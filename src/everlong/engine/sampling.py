"""How the next token is chosen from the logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from everlong.engine.grammar import Grammar
from everlong.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Sampling:
    """The settings of one answer; ConfigError for a wrong one and for one that would have no effect."""

    max_new_tokens: int = 256
    """Tokens written at most."""
    temperature: float | int = 0
    """0 takes the likeliest token; above, logits are divided by it before one is drawn."""
    top_p: float | int = 1
    """Draws among the likeliest tokens whose probabilities first reach this sum."""
    top_k: int = 0
    """Draws among this many likeliest tokens; 0 means all."""
    repetition_penalty: float | int = 1
    """Above 1 makes tokens less likely that stand among the recent ones (CTRL, arXiv 1909.05858)."""
    stop: str | Sequence[str] = ()
    """The answer ends before this string, or before the first of several."""
    ends: tuple[int, ...] = ()
    """Token ids that end the answer, besides the model's own end tokens."""
    seed: int | None = None
    """The same seed gives the same tokens; None draws from torch's own generator."""
    presence_penalty: float | int = 0
    """Taken from the logits of tokens that stand in the answer so far."""
    frequency_penalty: float | int = 0
    """Taken from the logits of such tokens as often as they stand there."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids."""
    logprobs: int | None = None
    """Log-probabilities of the tokens written are wanted, and of so many likeliest ones beside each; None: not."""
    grammar: Grammar | None = None
    """What the answer is to look like; needs the extra everlong[grammar]."""

    def __post_init__(self) -> None:
        self._check_types()
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
        if not all(self.stops):
            raise ConfigError(f"stop={self.stop!r}: each stop string needs a character; leave empty ones out")
        if self.logprobs is not None and self.logprobs < 0:
            raise ConfigError(f"logprobs={self.logprobs}: must be at least 0 (likeliest tokens beside each)")
        self._refuse_without_effect()

    def _check_types(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed", "logprobs"):
            value = getattr(self, name)
            optional = name in ("seed", "logprobs") and value is None
            if not optional and (not isinstance(value, int) or isinstance(value, bool)):
                raise ConfigError(f"{name}={value!r}: expected a whole number")
        for name in ("temperature", "top_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"{name}={value!r}: expected a number")
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name}={getattr(self, name)}: must be finite (0 changes nothing)")
        if not isinstance(self.stop, str | Sequence) or not all(isinstance(text, str) for text in self.stop):
            raise ConfigError(f"stop={self.stop!r}: expected a text, or several in a list")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise ConfigError(f"seed={self.seed}: must be a whole number from -2^63 to 2^64 - 1; give a smaller one")

    def _refuse_without_effect(self) -> None:
        for name, value, neutral in (("top_p", self.top_p, 1), ("top_k", self.top_k, 0)):
            if self.temperature == 0 and value != neutral:
                raise ConfigError(f"{name}={value}: has no effect at temperature=0; set a temperature above 0")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The random numbers of one answer: seeded, or None for torch's own."""
        return None if self.seed is None else torch.Generator(device).manual_seed(self.seed)

    def pick(
        self,
        logits: Float[Tensor, " vocabulary"],
        recent: Int[Tensor, " recent"],
        generator: torch.Generator | None = None,
        written: Sequence[int] = (),
        allowed: Bool[Tensor, " vocabulary"] | None = None,
    ) -> int:
        """The id of the next token, of those `allowed`.

        The repetition penalty looks at `recent` ids, the other two at those `written`.
        """
        logits = logits.float()
        if not torch.isfinite(logits.max()):
            raise ModelError("the logits are not finite: the model overflowed; load it with dtype=float32")
        if shifts := self._shifts(written, len(logits)):
            ids = torch.tensor(list(shifts), device=logits.device)
            logits = logits.index_add(0, ids, logits.new_tensor(list(shifts.values())))
        if self.repetition_penalty != 1:
            logits = penalised(logits, recent, self.repetition_penalty)
        if allowed is not None:
            logits = logits.masked_fill(~allowed.to(logits.device), -math.inf)
        if self.temperature == 0:
            return int(logits.argmax())
        odds = ((logits - logits.max()) / self.temperature).softmax(-1)
        order = None
        if self.top_k:
            odds, order = odds.topk(min(self.top_k, len(odds)))
            odds = odds / odds.sum()
        if self.top_p < 1:
            odds, inner = nucleus(odds, self.top_p)
            order = inner if order is None else order[inner]
        drawn = torch.multinomial(odds, 1, generator=generator)
        return int(drawn if order is None else order[drawn])

    def _shifts(self, written: Sequence[int], vocabulary: int) -> dict[int, float]:
        """What is added to the logits of some ids: their bias, less the penalties for what was written."""
        outside = [token for token in self.logit_bias if not 0 <= token < vocabulary]
        if outside:
            raise ConfigError(f"logit_bias={outside[0]}: no token of the model's {vocabulary:,}; give ids of its own")
        shifts = {token: float(bias) for token, bias in self.logit_bias.items()}
        if self.presence_penalty or self.frequency_penalty:
            for token, count in Counter(written).items():
                penalty = self.presence_penalty + self.frequency_penalty * count
                shifts[token] = shifts.get(token, 0.0) - penalty
        return shifts


def nucleus(odds: Float[Tensor, " n"], top_p: float) -> tuple[Float[Tensor, " kept"], Int[Tensor, " kept"]]:
    """The fewest largest odds whose sum reaches `top_p`, and where they stand (nucleus sampling, arXiv 1904.09751).

    Looks at the largest few first, because sorting a vocabulary costs more than drawing from it.
    """
    count = 256
    largest, order = odds.topk(min(count, len(odds)))
    while count < len(odds) and largest.sum() < top_p:
        count *= 8
        largest, order = odds.topk(min(count, len(odds)))
    kept = int((largest.cumsum(-1) - largest < top_p).sum())
    return largest[:kept], order[:kept]


def penalised(
    logits: Float[Tensor, " vocabulary"], recent: Int[Tensor, " recent"], penalty: float
) -> Float[Tensor, " vocabulary"]:
    """Logits where each token of `recent` is divided by the penalty, or multiplied where it is negative."""
    ids = recent.to(logits.device).unique()
    scores = logits[ids]
    return logits.index_copy(0, ids, torch.where(scores < 0, scores * penalty, scores / penalty))
