"""Calibration: finds the retrieval heads of a model, once, on texts made for it.

A text with many facts is read by the stock model. Then each question about it is read, and a head's margin is the
attention mass that any of the question's tokens puts on the fact's block of 128 tokens, less the largest on any other
block (QRHead, arXiv 2506.09944, with the largest other block in place of a normalisation). The best heads by their
margins then vote about facts of another text, which says how well they find.
"""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everlong.errors import CapabilityError, ConfigError
from everlong.machine import versions
from everlong.models.load import Loaded
from everlong.models.retrieval_heads import BEST, KEPT, RetrievalHeads, key
from everlong.session.calibration.attention import SINKS, Watched, block_at
from everlong.session.calibration.ranking import margins, recall, scores, vote
from everlong.session.calibration.texts import KINDS, TOKENS_PER_FACT, FactText, fact_text

TOKENS = 4096
"""Tokens of a text, where the model was trained on as many."""
LEAST = 2 * TOKENS_PER_FACT * len(KINDS)
"""Tokens that a text must have: one fact of each kind in its half."""
FIRST = 4
"""How many blocks of the vote count as found."""
_LENGTHS = ("max_position_embeddings", "max_seq_len", "n_positions", "seq_length")
_ROOM = 128
"""Tokens that a question may take."""
_OTHER_SEED = 1_000_003
"""What is added to the seed for the text that is voted about."""

Advance = Callable[[int, str], None]
"""Told the per cent done, and what is being done."""
_READING = 0.6
"""About the share of the work that reading a text is; the rest is its questions."""


@dataclass(frozen=True)
class Looked:
    """Where the heads looked for each question: masses [Q, L, H, N], the blocks of the facts, and their kinds."""

    layers: tuple[int, ...]
    masses: Tensor
    golds: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    tokens: int


def calibrate(
    loaded: Loaded, seed: int = 0, tokens: int | None = None, advance: Advance | None = None
) -> RetrievalHeads:
    """The retrieval heads of the model, with how often the best eight find facts of another text.

    `seed` makes the texts. The heads are found on a text of half as many `tokens` (4,096, or what fits the trained
    length) and tried on one of all; `advance` is told the per cent done and what is being done. The model is left as
    it was. CapabilityError for a model without a tokenizer or one that does not show its attention, ConfigError for a
    length that does not fit.
    """
    if loaded.tokenizer is None:
        raise CapabilityError(f"{loaded.name}: has no tokenizer, so no text can be made for it; give it its tokenizer")
    length = text_tokens(loaded, tokens)
    tell = advance or (lambda done, words: None)
    first = fact_text(loaded.tokenizer, seed, length // 2, lead=SINKS)
    seen = look(loaded.model, first, lambda share: tell(round(33 * share), "looking for heads"))
    ranked = list(_ranked(seen))
    best = [head for head, _ in ranked[:BEST]]
    other = fact_text(loaded.tokenizer, seed + _OTHER_SEED, length, lead=SINKS)
    proof = look(loaded.model, other, lambda share: tell(round(33 + 67 * share), "trying them on another text"))
    votes = vote(proof.masses, [(proof.layers.index(layer), head) for layer, head in best])
    return RetrievalHeads(
        heads=tuple(head for head, _ in ranked[:KEPT]),
        scores=tuple(score for _, score in ranked[:KEPT]),
        recall=recall(votes, proof.golds, FIRST),
        recall_first=recall(votes, proof.golds, 1),
        questions=len(proof.golds),
        tokens=proof.tokens,
        seed=seed,
        model=loaded.name,
        key=key(loaded.model),
        date=dt.datetime.now(dt.UTC).date().isoformat(),
        versions=(*versions().items(), ("python", platform.python_version())),
    )


def text_tokens(loaded: Loaded, tokens: int | None = None) -> int:
    """The length of a text: what was asked for if it fits, else 4,096 or what fits. ConfigError if it does not."""
    config = loaded.model.config.get_text_config(decoder=True)
    trained = next((n for name in _LENGTHS if (n := getattr(config, name, None))), TOKENS + 2 * _ROOM)
    most = trained - 2 * _ROOM
    chosen = min(TOKENS, most) if tokens is None else tokens
    if not LEAST <= chosen <= most:
        raise ConfigError(
            f"tokens={chosen}: {loaded.name} was trained on {trained:,} tokens, and facts and questions need room; "
            f"expected {LEAST:,} to {most:,}" + ("" if most >= LEAST else ", so this model cannot be calibrated")
        )
    return chosen


def look(model: Any, text: FactText, advance: Callable[[float], None] = lambda share: None) -> Looked:
    """Where the heads look for each question about a text; `advance` is told the share done, 0 to 1."""
    watched = Watched(model)
    for done in watched.read(text.ids):
        advance(_READING * done / len(text.ids))
    masses = []
    for asked in text.asked:
        masses.append(watched.ask(asked.question))
        advance(_READING + (1 - _READING) * len(masses) / len(text.asked))
    golds = tuple(tuple(range(block_at(a.start), block_at(a.end - 1) + 1)) for a in text.asked)
    return Looked(watched.layers, torch.stack(masses), golds, tuple(a.kind for a in text.asked), len(text.ids))


def _ranked(seen: Looked) -> Iterator[tuple[tuple[int, int], float]]:
    """Every (layer, query head) with its score, the best first."""
    found = scores(margins(seen.masses, seen.golds), seen.kinds)
    for place in found.flatten().argsort(descending=True, stable=True).tolist():
        layer, head = divmod(place, found.shape[1])
        yield (seen.layers[layer], head), round(float(found[layer, head]), 4)
