"""How a layer makes keys and values of the latent vectors that it caches, found by giving it a basis of them.

One token is read over a cache that hands each such layer the unit vectors in the place of what it holds; what its
attention is then given are the matrices. That they are all there is to it is checked with a vector more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from everlong.errors import CapabilityError
from everlong.hooks.current_step import activate
from everlong.hooks.listen import Listening, Recorder
from everlong.hooks.routes import AttentionHook
from everlong.hooks.turns import turn
from everlong.models.internals import accepts, device_of, plain
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.absorb import Absorbed
from everlong.ops.workspace import Workspace

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class BasisCache(DynamicCache):
    """Answers the `wanted` layers with unit vectors, zeros, and one vector of random numbers."""

    def __init__(self, config: Any, wanted: dict[int, LayerPlan]) -> None:
        super().__init__(config=config)
        self.wanted = wanted

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """The columns of a layer."""
        if layer_idx not in self.wanted:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        width = key_states.shape[3]
        columns = basis(width + value_states.shape[3]).to(key_states)[None, None]
        return columns[..., :width], columns[..., width:]


def basis(size: int) -> Tensor:
    """Rows: the unit vectors, zeros, random numbers [size + 2, size]."""
    drawn = torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.eye(size), torch.zeros(1, size), drawn])


@dataclass(eq=False)
class Hearing(Listening):
    """A step that keeps the keys and values that attention is given."""

    given: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None, s_aux: Tensor | None
    ) -> Tensor:
        """The last value, for each of the heads."""
        self.given[layer] = k[0].detach().clone(), v[0].detach().clone()
        return v[:, :, -1:].repeat_interleave(q.shape[1] // v.shape[1], 1).transpose(1, 2)


class Expansions:
    """The matrices of all layers of a model that cache latent vectors; found when they are first asked for."""

    def __init__(self, decoder: nn.Module, forward: Callable[..., Any], route: AttentionHook) -> None:
        self._decoder = decoder
        self._forward = forward
        self._route = route
        self._found: dict[int, Absorbed] | None = None

    def __call__(self, plan: ModelLayout) -> dict[int, Absorbed]:
        """By layer; CapabilityError for a layer whose keys or values are not linear in what it caches."""
        if self._found is None:
            wanted = {p.index: p for p in plan.layers if p.joint}
            with turn(self._decoder):
                given = self._given(plan, wanted)
            self._found = {i: _absorbed(layer, *given[i]) for i, layer in wanted.items()}
        return self._found

    def _given(self, plan: ModelLayout, wanted: dict[int, LayerPlan]) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values [H, n, dim] that the attention of each layer is given for the basis."""
        decoder: Any = self._decoder
        ids = torch.zeros(1, 1, dtype=torch.long, device=device_of(decoder))
        where = {"position_ids": ids} if accepts(decoder, "position_ids") else {}
        nothing = Recorder(decoder.config)
        step = Hearing(0, 1, 1, 0, [], {}, plan.by_index, Workspace(), plan.dtype, recorder=nothing)
        cache = BasisCache(decoder.config, wanted)
        try:
            with plain(decoder):
                activate(step)
                with self._route.entered(step):
                    self._forward(input_ids=ids, past_key_values=cache, use_cache=True, **where)
        finally:
            activate(None)
        return step.given


def _absorbed(layer: LayerPlan, k: Tensor, v: Tensor) -> Absorbed:
    """The matrices, from what attention was given for the basis."""
    assert layer.key is not None
    size = layer.compared[0][1]
    width = layer.key[1]
    drawn = basis(size)[-1].to(k)
    for name, x in (("keys", k), ("values", v)):
        expected = torch.einsum("r,hrd->hd", drawn.float(), x[:, :size].float())
        wrong = (x[:, -1].float() - expected).norm() + x[:, size].float().norm()
        if not float(wrong / expected.norm().clamp_min(1e-30)) <= TOLERANCE[k.dtype]:
            raise _refused(layer, f"its {name} are not linear in what it caches")
    if v[:, width:size].abs().max() > TOLERANCE[k.dtype] * v[:, :width].abs().max():
        raise _refused(layer, "its values depend on what it rotates")
    rotated = k[:, width:size, -(size - width) :] - torch.eye(size - width, dtype=k.dtype, device=k.device)
    if layer.rotation is not None and rotated.abs().max() > TOLERANCE[k.dtype]:
        raise _refused(layer, "its keys change what was rotated")
    return Absorbed(k[:, :size].transpose(1, 2).contiguous(), v[:, :width].transpose(1, 2).contiguous())


def _refused(layer: LayerPlan, why: str) -> CapabilityError:
    return CapabilityError(f"blocks: this model is not handled: layer {layer.index}: {why}; use the method sinks")
