"""Log-probabilities of tokens from the logits of a chunk, a few rows at a time.

Letters: T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SLICE_ELEMENTS = 2**19
"""Logits normalised at once: 2 MB in float32, so that the passes over them stay in the processor's cache."""


def logprobs(
    before: Float[Tensor, " V"] | None, after: Float[Tensor, "T V"], ids: Int[Tensor, " T"]
) -> Float[Tensor, " T"]:
    """Natural log-probabilities of `ids`, float32 on the device of `after`.

    `after[i]` is the prediction made after `ids[i]`, `before` the one made before `ids[0]` (None: NaN).
    """
    out = torch.full((len(ids),), math.nan, device=after.device)
    ids = ids.to(after.device)
    with torch.inference_mode():
        if before is not None:
            out[0] = before.float().log_softmax(-1)[ids[0]]
        rows = max(1, _SLICE_ELEMENTS // after.shape[1])
        for start in range(0, len(ids) - 1, rows):
            wanted = ids[start + 1 : start + 1 + rows, None]
            predicted = after[start : start + len(wanted)].float().log_softmax(-1)
            out[start + 1 : start + 1 + len(wanted)] = predicted.gather(1, wanted)[:, 0]
    return out


def at_most(found: Iterator[Tensor], tokens: int | None) -> Iterator[Tensor]:
    """The first `tokens` ids of `found`; it is not asked for more."""
    left = tokens
    while left is None or left > 0:
        ids = next(found, None)
        if ids is None:
            return
        yield ids if left is None else ids[:left]
        left = None if left is None else left - len(ids)
