"""What everlong does with a class of models: exact, refused with a reason, or what must never be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

import everlong
from everlong.errors import EverlongError
from everlong.hooks.attach import Handle, attach
from everlong.methods import Sinks
from tests.families.configs import TRAINED
from tests.families.measure import FITS, ONES, TIGHT
from tests.families.models import Cut, plain, stream, tokens
from tests.families.reference import windowed
from tests.families.zoo import tiny

ROOMY = Sinks(sinks=4, window=TRAINED - 4)
BLOCKS = partial(everlong.Blocks, sinks=3, block=5, top_k=3, repr_topk=2, exec_chunk=16, pool=6, codec="native")
LONG = 150
TOLERANCE = 1e-4
"""Of logits, times the largest of them where that is above 1."""
THROUGH_INTERFACE = "the attention function"


@dataclass(frozen=True)
class Row:
    """A class: `sinks` and `blocks` are "exact", "refused: ..." or "WRONG: ..."; figures are largest differences.

    `states` counts layers that keep a state, `noise` is how far plain transformers in pieces is then from all at once.
    """

    name: str
    sinks: str
    blocks: str = ""
    fits: float = 0.0
    evicted: float = 0.0
    noise: float = 0.0
    states: int = 0
    way: str = ""

    @property
    def wrong(self) -> bool:
        """Whether anything differs without a word, or fails with an error that is not ours."""
        return any(x.startswith("WRONG") for x in (self.sinks, self.blocks))


def sweep(name: str) -> Row:
    """The row of a class."""
    try:
        model = tiny(name)
        plain(model, tokens(FITS))
    except Exception as error:  # noqa: BLE001 what must never be is what is looked for
        return Row(name, f"no tiny model: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
    row = Row(name, "")
    try:
        with attach(model, TIGHT) as handle:
            noise = _noise(model) if handle.plan.states else 0.0
            fits, evicted = _sinks(model, handle)
            verdict = _verdict(max(fits, TOLERANCE * evicted / _allowed(noise)))
            row = Row(name, verdict, "", fits, evicted, noise, len(handle.plan.states), handle.route)
    except EverlongError as error:
        return Row(name, f"refused: {error}")
    except Exception as error:  # noqa: BLE001 what must never be is what is looked for
        return Row(name, f"WRONG: {type(error).__name__}: {error}")
    return Row(**{**vars(row), "blocks": _blocks(model, row.noise)})


def _verdict(error: float, allowed: float = TOLERANCE) -> str:
    return "exact" if error <= allowed else f"WRONG: logits differ by {error:.1e}, of {allowed:.1e} allowed"


def _allowed(noise: float) -> float:
    """What a stream may differ by after eviction: two ways to cut it are compared there."""
    return max(TOLERANCE, 4 * noise)


@torch.no_grad()
def _noise(model: PreTrainedModel) -> float:
    """How far plain transformers, token by token, is from itself at once: in parts of the largest logit above 1."""
    ids = tokens(FITS)
    want = plain(model, ids)
    cache = DynamicCache(config=model.config)
    places = torch.arange(FITS)[None].split(1, 1)
    given = {"past_key_values": cache, "use_cache": True}
    got = torch.cat(
        [model(x, position_ids=at, **given).logits for x, at in zip(ids.split(1, 1), places, strict=True)], 1
    )
    return float((got - want).abs().max()) / max(1.0, float(want.abs().max()))


def _sinks(model: PreTrainedModel, handle: Handle) -> tuple[float, float]:
    """Largest differences: from the stock model while all fits, and from the slow reference after eviction."""
    ids = tokens(LONG)
    with attach(model, ROOMY) as roomy:
        fits = _worst(model, roomy, ids[:, :FITS], plain(model, ids[:, :FITS]), ((20, *[1] * 9, 19), 7))
    sizes = {"sinks": TIGHT.sinks, "window": TIGHT.window}
    if handle.route == THROUGH_INTERFACE:
        want = windowed(model, handle.plan, ids, **sizes)
    else:
        want = stream(model, handle.new_cache(), ids, 31)
    return fits, _worst(model, handle, ids, want, (ONES, 64))


def _blocks(model: PreTrainedModel, noise: float) -> str:
    try:
        with attach(model, BLOCKS(window=12)) as handle:
            ids = tokens(LONG)
            want = stream(model, handle.new_cache(16), ids, 50)
            error = _worst(model, handle, ids, want, (7,), 16)
        with attach(model, BLOCKS(window=TRAINED)) as handle:
            error = max(error, _worst(model, handle, ids[:, :FITS], plain(model, ids[:, :FITS]), (7,)))
    except EverlongError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 what must never be is what is looked for
        return f"WRONG: {type(error).__name__}: {error}"
    return _verdict(error, _allowed(noise))


def _worst(
    model: PreTrainedModel, handle: Handle, ids: Tensor, want: Tensor, cuts: tuple[Cut, ...], chunk: int = 512
) -> float:
    """Largest difference from `want` over ways to cut `ids`, in parts of the largest logit where that is above 1."""
    scale = max(1.0, float(want.abs().max()))
    found = [stream(model, handle.new_cache(chunk), ids, cut) for cut in cuts]
    errors = [(got - want[:, : got.shape[1]]).abs().max() for got in found]
    return max(float("inf") if torch.isnan(e) else float(e) for e in errors) / scale
