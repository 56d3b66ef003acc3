"""Does the memory help? The same weights on held-out samples, with the memory and without.

The samples are read as streams, the way the model will be used, and not as rows under training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from everlong.hooks.attach import attach
from everlong.methods import Method, make_method
from everlong.train.data.sample import Example
from everlong.train.recipe import Recipe
from everlong.train.rows import sample

HELD_OUT = 10**9
"""The number of the first held-out sample: no run has so many steps."""
CHUNK_TOKENS = 1024


def held_out(recipe: Recipe, tokenizer: Any, count: int) -> list[Example]:
    """Samples of the last stage that no step has seen."""
    stage = recipe.stages[-1]
    tasks = stage.tasks()
    return [sample(recipe, stage, tasks, tokenizer, recipe.seed, HELD_OUT + n) for n in range(count)]


def ablation(
    model: Any, method: Method, samples: list[Example], tell: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, float]]:
    """By control ("on", "off", and what else the method has): loss, digits right, answers right, n.

    `loss` is -log p (nats) over the tokens with a weight, `digits` the share of answer tokens that are the most likely
    ones, `answers` the share of answers with all of them (both NaN where nothing is asked).
    """
    found = {}
    for control in method.controls():
        tell(f"held-out samples with memory={control}")
        found[control] = _measured(model, make_method(method.name, method.as_dict() | {"memory": control}), samples)
    return found


@torch.inference_mode()
def _measured(model: Any, method: Method, samples: list[Example]) -> dict[str, float]:
    nll = weight = 0.0
    digits = list[bool]()
    answers = list[bool]()
    with attach(model, method) as handle:
        for one in samples:
            logits = _logits(model, handle.new_cache(CHUNK_TOKENS), torch.from_numpy(one.ids).to(model.device))
            following = torch.from_numpy(one.ids[1:]).to(model.device)
            w = torch.from_numpy(one.loss_weight[1:]).to(model.device)
            nll += float((torch.nn.functional.cross_entropy(logits[:-1], following, reduction="none") * w).sum())
            weight += float(w.sum())
            for a, b in one.answers:
                right = (logits[a - 1 : b - 1].argmax(-1) == following[a - 1 : b - 1]).tolist()
                digits += right
                answers.append(all(right))
    share = {"digits": _mean(digits), "answers": _mean(answers)}
    return {"loss": nll / weight, **share, "n": len(samples)}


def _logits(model: Any, cache: Any, ids: torch.Tensor) -> torch.Tensor:
    """The logits [T, V] of one document read as a stream, in float32."""
    parts = [model(piece[None], past_key_values=cache, use_cache=True).logits[0] for piece in ids.split(CHUNK_TOKENS)]
    cache.close()
    return torch.cat(parts).float()


def _mean(values: list[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
