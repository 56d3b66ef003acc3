"""Which heads of a model this process computes, found by comparing what the ranks heard (listen.py)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from everlong.errors import AttachError
from everlong.hooks.listen import Heard
from everlong.models.internals import attention_modules, decoder_of
from everlong.models.ranks import Ranks
from everlong.models.sharding import shards

SAME = 1e-3
"""Relative distance up to which two ranks' queries are those of the same heads."""


def ranks_of(model: PreTrainedModel) -> Ranks | None:
    """The ranks to which the weights of attention are shared out; None if every process holds all of them."""
    found: dict[tuple[int, ...], Ranks] = {}
    for _, module in attention_modules(decoder_of(model)):
        for weight, dim in shards(module):
            mesh = weight.device_mesh
            group = mesh.get_group(dim)
            key = tuple(dist.get_process_group_ranks(group))
            found.setdefault(key, Ranks(mesh.size(dim), group, weight.to_local().device))
    if len(found) > 1:
        raise AttachError(
            f"{type(model).__name__}: its attention is sharded over {len(found)} groups of processes ({sorted(found)})"
            "; expected one: tensor parallelism alone (tp_size)"
        )
    return next(iter(found.values()), None)


def sharing_heads(model: PreTrainedModel, ranks: Ranks | None, near: Heard) -> Ranks | None:
    """The ranks, if each has other heads; None if each has them all, whatever its weights look like."""
    if ranks is None:
        return None
    if not near.queries:
        raise AttachError(
            f"{type(model).__name__}: is sharded over {ranks.size} ranks, and keeps its own softmax with ALiBi biases, "
            "where which heads a rank has cannot be found; load it whole"
        )
    mine = {layer: q[0].float().cpu() for layer, q in near.queries.items()}
    every = ranks.gather(mine)
    whole = {layer: all(_same(q, other[layer]) for other in every) for layer, q in mine.items()}
    if len(set(whole.values())) > 1:
        raise AttachError(
            f"{type(model).__name__}: of its layers {[i for i, same in whole.items() if not same]} are sharded by "
            "heads and others not; give every layer's attention the same tp_plan"
        )
    return None if all(whole.values()) else ranks


def _same(q: Tensor, other: Tensor) -> bool:
    return q.shape == other.shape and bool(torch.dist(q, other) <= SAME * q.norm())
