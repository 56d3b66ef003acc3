"""How far everlong is from what it must equal, family by family: used by the tests and by scripts/families.py."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from everlong.hooks.attach import Handle, attach
from everlong.methods import Sinks, Window
from everlong.methods.base import Method
from tests.families.configs import FULL, SLIDE, TRAINED, Family
from tests.families.models import Cut, build, plain, stream, tokens

ROOMY = Sinks(sinks=4, window=TRAINED - 4)
TIGHT = Sinks(sinks=4, window=12)
FITS = 48
STREAM = 200
ONES = (8, *[1] * 14, 34, *[1] * 14)
"""Single tokens across the first eviction and across the first change of frame."""
CUTS: tuple[Cut, ...] = (ONES, 7, 64)


def parity(family: Family, cuts: tuple[Cut, ...] = ((20, *[1] * 9, 19), 7, FITS)) -> float:
    """Largest difference from plain transformers of the deep model on a text that fits the window.

    Also asserts that nothing else changes: forwards without a stream cache, and the model afterwards.
    """
    model, ids = build(family), tokens(FITS)
    want, attributes = plain(model, ids), attributes_of(model)
    with attach(model, ROOMY) as handle:
        error = _worst(model, handle, ids, want, cuts)
        assert torch.equal(plain(model, ids), want), "attached, a forward without a stream cache is not the stock one"
    assert torch.equal(plain(model, ids), want), "detached, the model is not what it was"
    assert attributes_of(model) == attributes, "detached, a module has other attributes than it had"
    return error


def oracle(family: Family, kind: str, method: Method, cuts: tuple[Cut, ...] = CUTS) -> float:
    """Largest difference, over every token of a stream, from a fresh forward over what the token may see.

    Exact only where one layer attends: what deeper layers remember depends on tokens that are gone.
    """
    model, ids = build(family, kind), tokens(STREAM)
    want = fresh(model, ids, **{"sinks": 0} | method.as_dict())
    with attach(model, method) as handle:
        return _worst(model, handle, ids, want, cuts)


def invariance(family: Family) -> float:
    """Largest difference between ways to cut a long stream that the deep model reads."""
    model, ids = build(family), tokens(STREAM)
    with attach(model, TIGHT) as handle:
        want = stream(model, handle.new_cache(), ids, 7)
        return _worst(model, handle, ids, want, (ONES, 64))


def banded(family: Family, window: int = 12) -> float:
    """Largest difference of the deep model's window from plain transformers under a band mask.

    One long forward at true distances: no frame changes here, but every layer counts.
    """
    model, ids = build(family), tokens(TRAINED - 4)
    want = _under_a_band(model, ids, window)
    with attach(model, Window(window=window)) as handle:
        return _worst(model, handle, ids, want, (7, 31))


def _worst(model: PreTrainedModel, handle: Handle, ids: Tensor, want: Tensor, cuts: tuple[Cut, ...]) -> float:
    """Largest difference from `want` over the ways to cut `ids`; a cut may stop before the end."""
    return max(
        _distance(got, want[:, : got.shape[1]]) for got in (stream(model, handle.new_cache(), ids, c) for c in cuts)
    )


def attributes_of(model: PreTrainedModel) -> dict[str, set[str]]:
    """The names that each module holds itself."""
    return {name: set(vars(module)) for name, module in model.named_modules()}


@torch.no_grad()
def _under_a_band(model: PreTrainedModel, ids: Tensor, window: int) -> Tensor:
    config = model.config.get_text_config().to_dict()
    full, sliding = (_band(ids.shape[1], n) for n in (window, min(window, config.get("sliding_window") or window)))
    mask = {FULL: full, SLIDE: sliding} if config.get("layer_types") else sliding
    return model(input_ids=ids, attention_mask=mask, use_cache=False).logits


def _band(count: int, window: int) -> Tensor:
    """An additive mask [1, 1, count, count]: each token sees itself and `window` - 1 before it."""
    hidden = torch.ones(count, count).tril().triu(1 - window) == 0
    return torch.zeros(count, count).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]


def fresh(model: PreTrainedModel, ids: Tensor, sinks: int, window: int) -> Tensor:
    """Logits [1, tokens, vocabulary]: row t from a dense forward over [sinks + last `window` tokens] alone."""
    text, size = ids[0], sinks + window
    rows = [torch.cat([text[:sinks], text[t - window + 1 : t + 1]]) for t in range(size, len(text))]
    return torch.cat([plain(model, ids[:, :size])[0], plain(model, torch.stack(rows))[:, -1]])[None]


def _distance(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape, f"logits {tuple(got.shape)}, expected {tuple(want.shape)}"
    assert bool(got.isfinite().all()), "logits that are not finite"
    return float((got - want).abs().max())
