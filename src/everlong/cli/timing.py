"""Times of a method against plain transformers with as many cached tokens, taken in pairs in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from everlong.engine.runner import Forward
from everlong.errors import CapabilityError, ConfigError
from everlong.methods.base import Method, make_method
from everlong.models.load import Loaded
from everlong.session.session import Session

WHATS = ("decode", "read")
_WARM_UP = 2


@dataclass(frozen=True)
class TimingRow:
    """One measurement. `baseline` is transformers' figure, in the unit of the row; above 1 `ratio` is better."""

    what: str
    method: str
    cache: int
    ms_per_token: float | None
    tokens_per_s: float | None
    baseline: float
    ratio: float
    spread: float
    """Distance between the quartiles, as a share of the median."""
    baseline_spread: float
    repeats: int
    chunk: int

    def as_dict(self) -> dict[str, Any]:
        """The fields that have a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def sized(name: str, cache: int, fields: dict[str, Any]) -> Method:
    """The method that keeps `cache` tokens in all: its window is what the sinks leave."""
    if "window" in fields:
        raise ConfigError(f"window={fields['window']}: --cache sets it (sinks + window); leave it out")
    plain = make_method(name, fields).as_dict()
    if "window" not in plain:
        return make_method(name, fields)
    window = cache - plain.get("sinks", 0)
    if window < 1:
        raise ConfigError(f"cache={cache}: must be more than the {plain['sinks']} sinks (sinks + window)")
    return make_method(name, fields | {"window": window})


def measure(what: str, loaded: Loaded, stock: Any, method: Method, cache: int, chunk: int, repeats: int) -> TimingRow:
    """The row for one method and cache size: the median over `repeats` pairs, after a warm-up."""
    if not method.streams:
        raise CapabilityError(f"bench: {method} keeps no cache; bench dense, window or sinks, and score with recompute")
    tokens = 1 if what == "decode" else chunk
    ids = torch.randint(_vocabulary(loaded), (4096,), generator=torch.Generator().manual_seed(0))
    with Session(loaded, method, chunk=max(chunk, tokens)) as session:
        bounded = method.layout()[1] is not None
        session.feed(_cycle(ids, cache + 2 * chunk if bounded else cache))
        full = None if bounded else session.mark()
        base = Baseline(stock, _cycle(ids, cache), chunk)
        pairs = []
        for i in range(_WARM_UP + repeats):
            new = _cycle(ids.roll(-i), tokens)
            if full is not None:
                session.rewind(full)
            pairs.append((_seconds(lambda new=new: session.feed(new)), _seconds(lambda new=new: base.read(new))))
            base.crop(tokens)
    return _row(what, method, cache, chunk, tokens, pairs[_WARM_UP:])


class Baseline:
    """Plain transformers with a DynamicCache of a fixed number of tokens."""

    def __init__(self, model: Any, ids: Tensor, chunk: int) -> None:
        self._forward = Forward(model)
        self._cache = DynamicCache(config=model.config)
        for start in range(0, len(ids), chunk):
            self.read(ids[start : start + chunk])

    def read(self, ids: Tensor) -> Tensor:
        """One forward over `ids` behind the cached tokens; the logits of the last."""
        return self._forward(ids[None], 1, past_key_values=self._cache, use_cache=True)

    def crop(self, tokens: int) -> None:
        """Forget the newest `tokens`."""
        self._cache.crop(-tokens)


def _row(what: str, method: Method, cache: int, chunk: int, tokens: int, pairs: list[tuple[float, float]]) -> TimingRow:
    """The medians and spreads of pairs of seconds."""
    (ours, spread), (theirs, baseline_spread) = (_median(list(column)) for column in zip(*pairs, strict=True))
    decode = what == "decode"
    return TimingRow(
        what,
        method.name,
        cache,
        ms_per_token=1000 * ours if decode else None,
        tokens_per_s=None if decode else tokens / ours,
        baseline=1000 * theirs if decode else tokens / theirs,
        ratio=theirs / ours,
        spread=spread,
        baseline_spread=baseline_spread,
        repeats=len(pairs),
        chunk=tokens,
    )


def _median(values: list[float]) -> tuple[float, float]:
    """The median, and the distance between the quartiles as a share of it."""
    if len(values) < 2:
        return values[0], 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (high - low) / middle


def _seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes; a GPU is waited for."""
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _cycle(ids: Tensor, count: int) -> Tensor:
    """`count` ids: the given ones over and over."""
    return ids.repeat(count // len(ids) + 1)[:count]


def _vocabulary(loaded: Loaded) -> int:
    return loaded.model.get_input_embeddings().weight.shape[0]
