"""A continuous signal as a memory uses it: fitted to what leaves the window, read by queries, with trained parameters.

Maths: ops/infinity.py. All that touches the coefficients is computed in float32 at least, outside of autocast. Sticky
points follow the densities of all queries of the segment just read, over all heads: its whole attention to the signal
that the update squeezes. That mass is rounded to whole shares, or errors of rounding would grow from segment to
segment: between reading in chunks of 64 and of 50, logits of a tiny model differed by 1 after 160 tokens, now by 1e-5.

Letters: B rows, H query heads, G kv heads, T new tokens, L tokens per segment, M samples of the old signal, N
Gaussians, D, E head dims, W width of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.errors import ConfigError
from everlong.ops.infinity import (
    Basis,
    continuous_attention,
    convolution_gate,
    evenly,
    fit,
    fit_matrix,
    histogram,
    refit,
    squeezed,
    sticky_points,
)

Parameters = Mapping[str, Tensor]
"""Those of one layer: W_K, W_V, W_O, w_mu, w_var, conv_weight, conv_bias."""

SHARES = 1024
"""The attention to the old signal is counted in so many equal parts of it."""

FADED = 256
"""After so many updates nothing may be left of an old signal."""

Density = tuple[Tensor, Tensor]
"""mu and var of each query, [B, H, T]."""


@dataclass(frozen=True, eq=False)
class Signal:
    """How a signal is fitted and read: the Gaussians and the constant matrices of the two kinds of fit."""

    basis: Basis
    first: Float[Tensor, "L N"]
    later: Float[Tensor, "ML N"]
    samples: int
    sticky: bool

    @classmethod
    @lru_cache(maxsize=8)
    @torch.inference_mode(False)
    def of(cls, segment: int, basis: int, samples: int, tau: float, ridge: float, sticky: bool) -> Signal:
        """For segments of so many tokens; solved for in float64. ConfigError where the old signal would not fade."""
        grid = Basis.grid(basis)
        first = fit_matrix(grid, evenly(segment), ridge)
        later = fit_matrix(grid, squeezed(samples, segment, tau), ridge)
        again = later[:samples].T @ grid.psi(evenly(samples))
        if not float(torch.linalg.matrix_power(again, FADED).norm()) < 1:
            raise ConfigError(
                f"points={samples}: with basis={basis}, tau={tau} and segment={segment} the old signal grows with each "
                "update; use more points, fewer Gaussians, a smaller tau or longer segments"
            )
        return cls(grid, first, later, samples, sticky)

    def begun(self, hidden: Float[Tensor, "B L W"], given: Parameters) -> Float[Tensor, "B N W"]:
        """B of the first segment."""
        with _exactly(hidden):
            x = _gated(hidden, given)
            return fit(self.first.to(x), x)

    def gone_on(
        self, b: Float[Tensor, "B N W"], hidden: Float[Tensor, "B L W"], given: Parameters, density: Density | None
    ) -> Float[Tensor, "B N W"]:
        """B after one more segment; the old signal `b` was read with `density`. No gradient passes to `b`."""
        with _exactly(hidden):
            x = _gated(hidden, given)
            return refit(self.basis, self.later.to(x), b.detach(), x, self._points(density))

    def _points(self, density: Density | None) -> Float[Tensor, "*R M"]:
        """Where the old signal is read: even, or as dense as the attention to it, counted in whole shares."""
        if not self.sticky or density is None:
            return evenly(self.samples)
        mass = histogram(*density)
        share = mass / mass.sum(-1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)
        return sticky_points((share * SHARES).round(), self.samples)

    def projected(
        self, b: Float[Tensor, "B N W"], given: Parameters, kv_heads: int
    ) -> tuple[Float[Tensor, "B G N D"], Float[Tensor, "B G N E"]]:
        """K = B W_K and V = B W_V."""
        with _exactly(b):
            k, v = ((b @ given[name].to(b.dtype).T).unflatten(2, (kv_heads, -1)) for name in ("W_K", "W_V"))
            return k.transpose(1, 2), v.transpose(1, 2)

    def read(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G N D"], v: Float[Tensor, "B G N E"], given: Parameters
    ) -> tuple[Float[Tensor, "B T H E"], Density]:
        """What queries read, projected by W_O; and their densities."""
        with _exactly(q):
            out, mu, var = continuous_attention(q, k, v, given["w_mu"], given["w_var"], self.basis)
            heads = out.transpose(1, 2)
            return (heads.flatten(2) @ given["W_O"].to(out.dtype).T).view(heads.shape), (mu, var)


def _gated(hidden: Float[Tensor, "B L W"], given: Parameters) -> Float[Tensor, "B L W"]:
    """The values of the signal at a segment's tokens."""
    x = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    return convolution_gate(x, given["conv_weight"].to(x.dtype), given["conv_bias"].to(x.dtype))


def _exactly(like: Tensor) -> torch.autocast:
    """Without autocast: a product in a half type loses the signal."""
    return torch.autocast(like.device.type, enabled=False)
