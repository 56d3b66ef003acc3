"""Where an attached model and the stock one part, and why: what is said when the self-check refuses a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from everlong.cache.stream import CachedStream
from everlong.cache.stream_cache import StreamCache
from everlong.models.internals import attention_modules
from everlong.models.layout import LayerPlan, ModelLayout

Found = dict[str, list[Tensor]]
"""What each attention module gave, call by call."""


def reason(run: nn.Module, ids: Int[Tensor, "1 T"], cuts: Sequence[int], plan: ModelLayout) -> str:
    """Words for the layer that differs first and what is known of it; empty where nothing is found.

    `run` is the attached module; `cuts` are the ends of the pieces that the cache is read in.
    """
    if (seen := _sees_what_is_behind(run, ids)) is not None:
        return seen
    modules = dict(attention_modules(run))
    with _outputs(modules) as stock:
        run(input_ids=ids, use_cache=False)
    cache = StreamCache(CachedStream(plan, "self-check", 0, None))
    with _outputs(modules) as ours:
        for a, b in itertools.pairwise(cuts):
            run(input_ids=ids[:, a:b], past_key_values=cache, use_cache=True)
    for name, layer in modules.items():
        where = f"layer {layer.layer_idx} ({type(layer).__name__})"
        if name in ours and name not in stock:
            return f"{where} is left out without a cache, and runs over an empty one"
        if name in stock and name not in ours:
            return f"{where} runs without a cache, and not with one"
        if name not in stock:
            continue
        first = _first_other(torch.cat(stock[name], 1), torch.cat(ours[name], 1))
        if first is not None:
            return f"{where} {_what_differs(plan.by_index.get(cast('int', layer.layer_idx)), first)}"
    return ""


def _sees_what_is_behind(run: nn.Module, ids: Int[Tensor, "1 T"]) -> str | None:
    """Words for a stock model whose first tokens change with the last one."""
    other = ids.clone()
    other[:, -1] = ids[:, 0] if ids[0, -1] != ids[0, 0] else ids[:, 1]
    first, second = (run(input_ids=x, use_cache=False)[0][:, :-1].float() for x in (ids, other))
    if not _differ(first, second):
        return None
    return "in every layer tokens of a text see those behind them, which are not there yet when it is read in pieces"


def _first_other(a: Float[Tensor, "1 T W"], b: Float[Tensor, "1 T W"]) -> int | None:
    """The first token for which a layer gives something else."""
    if a.shape != b.shape:
        return 0
    return next((t for t in range(a.shape[1]) if _differ(a[:, t], b[:, t])), None)


def _what_differs(layer: LayerPlan | None, first: int) -> str:
    limit = None if layer is None else layer.pattern.sliding or layer.pattern.chunked
    if limit is not None and first >= limit:
        return f"sees all tokens without a cache, and the last {limit} over transformers' own (sliding_window)"
    return f"is the first to give something else, from token {first + 1} on"


def _differ(a: Tensor, b: Tensor) -> bool:
    """By more than rounding, in float32 and narrower types."""
    if a.shape != b.shape:
        return True
    allowed = 1e-2 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return not float((a.float() - b.float()).norm()) <= allowed * float(a.float().norm())


@contextmanager
def _outputs(modules: dict[str, Any]) -> Iterator[Found]:
    """What these modules give while inside."""
    found: Found = {}

    def keep(name: str, output: Any) -> None:
        hidden = output if isinstance(output, Tensor) else output[0]
        if isinstance(hidden, Tensor) and hidden.ndim == 3:
            found.setdefault(name, []).append(hidden.detach().clone())

    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: keep(name, output))
        for name, module in modules.items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
