"""What a model's linear layers are given while it reads a text, so that weights can be rounded where it matters least.

The text is the reference of the Python language, which comes with every Python.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from everlong.errors import one_line
from everlong.ops.compensated import is_grouped, moments

logger = logging.getLogger(__name__)

TOKENS = 1024
_CHUNK = 512


def calibration_ids(tokenizer: Any) -> Tensor | None:
    """The tokens that are read; None without a tokenizer or without the text."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return None
    if tokenizer is None:
        return None
    text = " ".join(topics[name] for name in sorted(topics))[: 8 * TOKENS]
    ids = torch.tensor(tokenizer(text)["input_ids"][:TOKENS])
    return ids if len(ids) else None


@torch.no_grad()
def input_moments(model: Any, layers: dict[str, nn.Linear], ids: Tensor) -> dict[str, Tensor]:
    """For each of the layers the moments of its inputs (ops/compensated.py); none where the model cannot read so.

    Layers that are given the same tensor share theirs.
    """
    found: dict[str, Tensor] = {}
    newest: list[tuple[Tensor, Tensor]] = []

    def listener(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def listen(module: nn.Module, given: tuple[Any, ...]) -> None:
            x = given[0]
            if not newest or newest[0][0] is not x:
                newest[:] = [(x, moments(x.flatten(0, -2)))]
            seen = found.get(name)
            found[name] = newest[0][1] if seen is None else seen + newest[0][1]

        return listen

    takes = {name: m for name, m in layers.items() if is_grouped(m.in_features)}
    hooks = [module.register_forward_pre_hook(listener(name)) for name, module in takes.items()]
    try:
        for piece in ids.split(_CHUNK):
            model(piece[None].to(model.device), use_cache=False)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        logger.warning(
            "the model cannot read the text that rounding is fitted to (%s): rounded without", one_line(error)
        )
        return {}
    finally:
        for hook in hooks:
            hook.remove()
    return {name: h.cpu() for name, h in found.items()}
