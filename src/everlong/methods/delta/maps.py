"""The trained maps of a layer: what its tokens become before the delta rule takes them, and what becomes of the answer.

A token's key and query describe the tokens before it (short convolutions), its value the token itself: at a digit the
key is "what stood before this digit". With `projections="own"` x W_q, x W_k, x W_v of what enters the layer go into
the convolutions, and the answer is added behind the layer's output projection, through W_m; with "none" it is the
model's own queries, keys and values, not rotated, and the answer is added to each head, times s.

Letters: B rows, H query heads, G kv heads, T tokens, K taps, D key dim, E value dim, W width of the model, C channels
of the convolution (H D + G D + G E), Y layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.errors import CapabilityError
from everlong.models.layout import LayerPlan, ModelLayout
from everlong.ops.delta import Writes, convolved

OPEN = 7.0
"""What w_a.x is added to: an untrained decay is sigmoid(7), .1 % a token."""
SPREAD = 0.1
NOISE = 0.02
FALLS = 0.8
"""Of the start: the spread of matrices, that of the taps' noise, and by how much each further lag weighs less."""
UNIT = 1e-6
"""A query or key is divided by its norm, or by this if that is smaller."""


@dataclass(frozen=True)
class Sizes:
    """How many heads, and of which dims."""

    heads: int
    kv_heads: int
    D: int
    E: int

    @classmethod
    def of(cls, heads: int, layer: LayerPlan, own: bool) -> Sizes:
        """Those of a layer; with projections of its own each query head has keys and values to itself."""
        (G, D), (_, E) = layer.key or (0, 0), layer.value or (0, 0)
        return cls(heads, heads, D, D) if own else cls(heads, G, D, E)

    @property
    def channels(self) -> tuple[int, int, int]:
        """Those of the queries, the keys and the values."""
        return self.heads * self.D, self.kv_heads * self.D, self.kv_heads * self.E


@dataclass(frozen=True, eq=False)
class Maps:
    """One layer's, in float32 at least."""

    sizes: Sizes
    given: Mapping[str, Tensor]

    @property
    def own(self) -> bool:
        """Whether there are projections of its own."""
        return "W_m" in self.given

    @property
    def look_back(self) -> int:
        """K, tokens that a convolution sees."""
        return self.given["taps_q"].shape[1]

    def projected(self, hidden: Float[Tensor, "B T W"]) -> Float[Tensor, "B T C"]:
        """What goes into the convolutions, where there are projections of its own."""
        weights = torch.cat([self.given[name] for name in ("W_q", "W_k", "W_v")])
        return hidden.to(weights.dtype) @ weights.T

    def joined(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T E"]
    ) -> Float[Tensor, "B T C"]:
        """What goes into the convolutions, where there are none: the model's own, not rotated."""
        return torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], -1).to(self.given["taps_q"].dtype)

    def tokens(
        self,
        entering: Float[Tensor, "B KT C"],
        document: Int[Tensor, "B KT"],
        hidden: Float[Tensor, "B T W"],
        write: Float[Tensor, "B T"] | None = None,
    ) -> Writes:
        """What the rule takes; `entering` and `document` begin K - 1 tokens before the T that are asked for.

        `write` is how often each token stands there: written w times it is written with b' = 1 - (1 - b)^w.
        """
        sizes = self.sizes
        taps = torch.cat([self.given[name] for name in ("taps_q", "taps_k", "taps_v")])
        parts = convolved(entering, taps, document).split(sizes.channels, -1)
        dims = (sizes.D, sizes.D, sizes.E)
        q, k, v = (x.unflatten(-1, (-1, d)).transpose(1, 2).contiguous() for x, d in zip(parts, dims, strict=True))
        x = hidden.to(taps.dtype)
        rest = torch.nn.functional.logsigmoid(-(x @ self.given["w_b"].T))
        if write is not None:
            rest = rest * write[..., None].to(rest.dtype)
        b = -torch.expm1(rest)
        log_a = None
        if "w_a" in self.given:
            log_a = torch.nn.functional.logsigmoid(x @ self.given["w_a"].T + OPEN).transpose(1, 2)
        return Writes(_unit(q), _unit(k), v, b.transpose(1, 2), log_a)

    def leaving(self, far: Float[Tensor, "B H T E"]) -> tuple[Tensor | None, Tensor | None]:
        """(what is added to each head [B, H, T, E], what to the layer's output [B, T, W]): one of the two."""
        if self.own:
            return None, far.transpose(1, 2).flatten(2) @ self.given["W_m"].T
        return far * self.given["s"][:, None, None], None


def untrained(plan: ModelLayout, width: int, look_back: int, own: bool, decay: bool, start: float) -> dict[str, Tensor]:
    """The induction start, drawn from torch's generator: [Y, ...] by name.

    A key is what a query one token earlier would have been: W_k is W_q, and taps of keys are those of queries a lag
    later. So a query at the end of "the key of Anna is" finds what was written at the token behind the same words.
    `start` is the spread of W_m, or s itself; with 0 the model is as it was.
    """
    Y = len(plan.layers)
    sizes = Sizes.of(plan.heads, plan.layers[0], own)
    HD, GD, GE = sizes.channels
    K = look_back
    signs = torch.randint(2, (Y, GD, K - 1)) * 2.0 - 1
    lags = signs * FALLS ** torch.arange(K - 1)
    none = torch.zeros(Y, GD, 1)
    early = torch.cat([lags, none], -1).unflatten(1, (sizes.kv_heads, 1, -1))
    found = {
        "taps_q": early.expand(-1, -1, sizes.heads // sizes.kv_heads, -1, -1).reshape(Y, HD, K),
        "taps_k": torch.cat([none, lags], -1),
        "taps_v": torch.cat([torch.ones(Y, GE, 1), torch.zeros(Y, GE, K - 1)], -1),
    }
    found = {name: x + NOISE * torch.randn(x.shape) for name, x in found.items()}
    found["w_b"] = SPREAD * torch.randn(Y, sizes.kv_heads, width)
    if decay:
        found["w_a"] = torch.zeros(Y, sizes.kv_heads, width)
    if not own:
        return found | {"s": torch.full((Y, sizes.heads), start)}
    W_q = SPREAD * torch.randn(Y, HD, width)
    W_v = SPREAD * torch.randn(Y, GE, width)
    return found | {
        "W_q": W_q,
        "W_k": W_q.clone(),
        "W_v": W_v,
        "W_m": start * torch.randn(Y, width, sizes.heads * sizes.E),
    }


def check_model(plan: ModelLayout, degree: int) -> None:
    """CapabilityError for a model whose layers the maps cannot serve."""
    if any(p.key is None or p.value is None for p in plan.layers):
        raise CapabilityError("delta: a layer of this model caches no keys; use the method sinks or blocks")
    if len({(p.key, p.value) for p in plan.layers}) > 1:
        raise CapabilityError("delta: the layers of this model differ in their heads; use the method sinks or blocks")
    D = (plan.layers[0].key or (0, 0))[1]
    if degree == 2 and D % 2:
        raise CapabilityError(f"delta: degree=2 needs keys of an even number of dims, this model has {D}; use degree=1")


def of_layer(plan: ModelLayout, layer: LayerPlan, parameters: Mapping[str, Tensor], dtype: Any) -> Maps:
    """The maps of a layer, whose parameters are taken in `dtype`."""
    own = "W_m" in parameters
    return Maps(Sizes.of(plan.heads, layer, own), {name: x.to(dtype) for name, x in parameters.items()})


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1, eps=UNIT)
