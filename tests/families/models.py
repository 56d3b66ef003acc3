"""The tiny random models of `configs.py`, and what plain transformers says about a text."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.families.configs import VOCAB, Family

Cut = int | tuple[int, ...]
GAIN = 1.5
"""Standard deviation of a matrix's weights times the square root of its inputs: large enough to see differences."""


def build(family: Family, kind: str | None = None, seed: int = 0) -> PreTrainedModel:
    """The family's random model in float32: deep, or the one in which only layers of `kind` attend."""
    model_class = getattr(transformers, family.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**family.options(kind))).eval()
        randomise(model, family.norms)
    if kind in family.attends:
        _silence(model, keep=family.attends[kind])
    return model


@torch.no_grad()
def randomise(model: nn.Module, norms: float) -> None:
    """Draw matrices anew and move every vector away from where it starts."""
    for name, p in model.named_parameters():
        if "embed" in name or "wte" in name:
            p.normal_(std=0.4)
        elif p.ndim >= 2:
            p.normal_(std=GAIN * p.shape[-1] ** -0.5)
        elif "sinks" in name:
            p.normal_()
        else:
            p.add_(norms * torch.randn_like(p))
    model.tie_weights()


@torch.no_grad()
def _silence(model: nn.Module, keep: int) -> None:
    """Zero what attention adds in every layer but `keep`: such a model attends in one layer only."""
    for name, p in model.named_parameters():
        if ".self_attn.o_proj." in name and f".layers.{keep}." not in name:
            p.zero_()


def tokens(count: int, seed: int = 1, batch: int = 1) -> Tensor:
    """Random ids [batch, count] that are no special token of any family."""
    return torch.randint(3, VOCAB - 4, (batch, count), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def plain(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits [batch, tokens, vocabulary] of the unmodified model in one forward."""
    return model(input_ids=ids, use_cache=False).logits


@torch.no_grad()
def stream(model: PreTrainedModel, cache: transformers.Cache, ids: Tensor, cut: Cut) -> Tensor:
    """Logits of a model that reads `ids` piece by piece over a cache: by a length, or in sizes."""
    pieces = ids.split(cut, 1) if isinstance(cut, int) else ids[:, : sum(cut)].split(cut, 1)
    return torch.cat([model(input_ids=p, past_key_values=cache, use_cache=True).logits for p in pieces], 1)
