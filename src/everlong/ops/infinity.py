"""A memory that is a continuous signal: fitted to the past by ridge regression, read by Gaussians over time.

The infinity-former writes the hidden states of all past tokens as x(t) = B^T psi(t), t in [0, 1], with N Gaussians
psi and coefficients B [N, E]. A query attends with a Gaussian density over t, which has a closed form; each new
segment squeezes the old signal into [0, tau] and takes the rest, so the memory never grows and the past blurs.

Source: arXiv 2109.00301, section 3. Differences from the authors' code: points in time are midpoints, (i + 0.5) / L
(the paper writes i / L; their code has midpoints for the first segment only, i / L in updates), which treats both
ends alike and makes sticky points at an even histogram equal to even ones; sticky points are quantiles, not random
draws; the coefficients are solved for in float64; grouped query heads; nothing is tied to one device.

Measured with N = L = 512: the signal sinks towards 0 at both ends, where the fit sees zeros beyond (the last point is
read back at 0.70 of its value, the last but one at 1.00); and as neighbouring coefficients of a rough signal cancel,
float32 reads it to 5e-5, while bfloat16 in a product of `b`, k, v or r costs a tenth of it or more. So everything
here is computed in float32 at least; keep B and its projections so too, outside of autocast.

Letters: B batch, H query heads, G kv heads, T queries, L tokens of a segment, M samples of the old signal, P points,
N Gaussians, E width of the signal, D head dim of keys, V head dim of values. Coefficients are `b_BNE`. *R stands for
rows or for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d, softplus

from everlong.errors import ConfigError

VAR_FLOOR = 1e-4
"""Least variance of an attention density: a deviation of 0.01, the wider of the two kinds of Gaussians."""


@dataclass(frozen=True, eq=False)
class Basis:
    """The N Gaussians psi_j(t) = Normal(t; centres_j, widths_j^2), normalised densities over t."""

    centres: Float[Tensor, " N"]
    widths: Float[Tensor, " N"]

    @classmethod
    def grid(cls, count: int, widths: tuple[float, ...] = (0.005, 0.01)) -> Basis:
        """`count` Gaussians in float64: one of each width at every centre of an even grid over [0, 1], ends included.

        >>> Basis.grid(4).centres.tolist(), Basis.grid(4).widths.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.005, 0.01, 0.005, 0.01])
        """
        if count < 1 or count % len(widths):
            raise ConfigError(
                f"count={count}: must be a multiple of {len(widths)} (Gaussians, one of each width at every centre)"
            )
        centres = torch.linspace(0, 1, count // len(widths), dtype=torch.float64).repeat_interleave(len(widths))
        return cls(centres, torch.tensor(widths, dtype=torch.float64).repeat(count // len(widths)))

    def to(self, like: Tensor) -> Basis:
        """The same on the device and in the type of `like`, float32 at least."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return Basis(self.centres.to(like.device, dtype), self.widths.to(like.device, dtype))

    def psi(self, t: Float[Tensor, "*P"]) -> Float[Tensor, "*P N"]:
        """The densities of all Gaussians at the points `t`, in the type of `t`, float32 at least.

        >>> Basis.grid(2).psi(torch.tensor([0.0])).round(decimals=2).tolist()
        [[79.79000091552734, 39.88999938964844]]
        """
        basis = self.to(t)
        return _normal(t[..., None], basis.centres, basis.widths.square())


def evenly(count: int, start: float = 0.0, end: float = 1.0) -> Float[Tensor, " P"]:
    """The midpoints of `count` equal parts of [start, end], in float64: where the tokens of a segment stand.

    >>> evenly(4).tolist()
    [0.125, 0.375, 0.625, 0.875]
    """
    return start + (end - start) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def squeezed(samples: int, tokens: int, tau: float) -> Float[Tensor, " P"]:
    """Where an update puts M samples of the old signal, in [0, tau], and L new tokens, in [tau, 1]: [M + L].

    >>> squeezed(2, 1, tau=0.5).tolist()
    [0.125, 0.375, 0.75]
    """
    if not 0 < tau < 1:
        raise ConfigError(f"tau={tau}: must lie between 0 and 1 (the share of time that the old signal keeps)")
    return torch.cat([evenly(samples, 0.0, tau), evenly(tokens, tau, 1.0)])


def fit_matrix(basis: Basis, points: Float[Tensor, " P"], ridge: float = 0.5) -> Float[Tensor, "P N"]:
    """G with B = G^T X: the ridge regression of a signal with the values X [P, E] at `points`.

    G^T = (F F^T + ridge I)^-1 F, where F = [psi(t_1) .. psi(t_P) psi(pads)] also covers [-0.5, 0) and (1, 1.5], at
    the distance 1 / P of even points; as the signal is 0 there, the columns of the pads are left out at the end. G
    depends on no data: solve once for each number of points, in float64 as here, and cast it for `fit`.

    >>> G = fit_matrix(Basis.grid(64), evenly(32))
    >>> x = Basis.grid(64).psi(evenly(32)) @ fit(G, torch.ones(32, 1).double())
    >>> G.shape, bool((x[4:-4] - 1).abs().max() < 0.05)
    (torch.Size([32, 64]), True)
    """
    if ridge <= 0:
        raise ConfigError(f"ridge={ridge}: must be above 0 (there may be more Gaussians than points)")
    points = points.double()
    F = basis.psi(torch.cat([points, _pads(points)])).T
    eye = torch.eye(len(F), dtype=F.dtype, device=F.device)
    return torch.linalg.solve(F @ F.T + ridge * eye, F[:, : len(points)]).T


def fit(matrix: Float[Tensor, "P N"], x_RPE: Float[Tensor, "*R P E"]) -> Float[Tensor, "*R N E"]:
    """The coefficients B = G^T X of the signal with values `x_RPE`, in the type of the matrix.

    >>> fit(torch.ones(3, 2), torch.ones(1, 3, 1)).tolist()
    [[[3.0], [3.0]]]
    """
    return matrix.T @ x_RPE.to(matrix.dtype)


def read(basis: Basis, b_BNE: Float[Tensor, "B N E"], points: Float[Tensor, "*R P"]) -> Float[Tensor, "B P E"]:
    """The signal B^T psi(t) at `points`, [P] for all rows or [B, P]: x(t) in the type of the coefficients.

    >>> read(Basis.grid(2), torch.tensor([[[0.1], [0.0]]]), torch.zeros(1)).round(decimals=3).item()
    7.979000091552734
    """
    return basis.psi(points.to(b_BNE.device)).to(b_BNE.dtype) @ b_BNE


def refit(
    basis: Basis,
    matrix: Float[Tensor, "P N"],
    b_BNE: Float[Tensor, "B N E"],
    x_BLE: Float[Tensor, "B L E"],
    points: Float[Tensor, "*R M"],
) -> Float[Tensor, "B N E"]:
    """The coefficients after one more segment `x_BLE`, which follows the old signal `b_BNE`.

    `matrix` is fit_matrix(basis, squeezed(M, L, tau)). The old signal is read at `points`, ascending: evenly(M), or
    [B, M] from `sticky_points`. Its samples then stand evenly in [0, tau] wherever they came from, so that what the
    points crowd on gets more room. The first segment has no old signal and takes all of [0, 1] by `fit` with
    fit_matrix(basis, evenly(L)). Gradients pass through; the paper cuts them, with `b_BNE.detach()`.

    >>> basis, x = Basis.grid(8), torch.ones(1, 3, 2)
    >>> b = fit(fit_matrix(basis, evenly(3)), x)
    >>> refit(basis, fit_matrix(basis, squeezed(5, 3, tau=0.5)), b, x, evenly(5)).shape
    torch.Size([1, 8, 2])
    """
    return fit(matrix, torch.cat([read(basis, b_BNE, points).to(matrix.dtype), x_BLE.to(matrix.dtype)], 1))


def continuous_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G N D"],
    v: Float[Tensor, "B G N V"],
    w_mu: Float[Tensor, " N"],
    w_var: Float[Tensor, " N"],
    basis: Basis,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H T"], Float[Tensor, "B H T"]]:
    """(out, mu, var): what each query reads from the signal, and its density Normal(mu, var) over time.

    `k` and `v` are the coefficients B W_K and B W_V. With s = q k^T / sqrt(D): mu = sigmoid(w_mu . s), var =
    softplus(w_var . s) but at least 1e-4, and out = E[v(t)] = sum_j r_j v_j with r_j = integral of
    Normal(t; mu, var) psi_j(t) over all t = Normal(mu; centre_j, var + width_j^2). As s enters through two sums
    only, the keys are summed first and s is never made. `mu` and `var` are float32 at least, `out` has the type of q.

    >>> q, k, v = torch.ones(1, 1, 1, 4), torch.zeros(1, 1, 2, 4), torch.tensor([[[[1.0], [1.0]]]])
    >>> [x.item() for x in continuous_attention(q, k, v, torch.ones(2), torch.ones(2), Basis.grid(2))[1:]]
    [0.5, 0.6931471824645996]
    """
    B, H, T, D = q.shape
    G = k.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    asked = k.to(wide).transpose(2, 3) @ torch.stack([w_mu, w_var], -1).to(wide)
    raw = q.to(wide).reshape(B, G, -1, D) @ asked / math.sqrt(D)
    mu = raw[..., 0].sigmoid()
    var = softplus(raw[..., 1]).clamp_min(VAR_FLOOR)
    basis = basis.to(mu)
    r = _normal(mu[..., None], basis.centres, var[..., None] + basis.widths.square())
    out = (r @ v.to(wide)).to(q.dtype)
    return out.view(B, H, T, -1), mu.view(B, H, T), var.view(B, H, T)


def kl(
    mu: Float[Tensor, "*P"], var: Float[Tensor, "*P"], sigma_0: float = 0.05, mu_0: float | None = None
) -> Float[Tensor, "*P"]:
    """KL(Normal(mu, var) || Normal(mu_0, sigma_0^2)) in nats, element by element.

    Without `mu_0` it is mu itself: the width is drawn to sigma_0 and the place stays free. The authors' code does so
    where its mu_0 is None (sorting task) or above 0 (GPT-2).

    >>> kl(torch.tensor([0.3]), torch.tensor([0.05**2])).abs().item() < 1e-6
    True
    """
    ratio = var / sigma_0**2
    width = 0.5 * (ratio - ratio.log() - 1)
    return width if mu_0 is None else width + 0.5 * (mu - mu_0).square() / sigma_0**2


@torch.no_grad()
def histogram(mu: Float[Tensor, "B H T"], var: Float[Tensor, "B H T"], bins: int = 128) -> Float[Tensor, "B bins"]:
    """How much attention each of `bins` equal parts of [0, 1] got, summed over heads and queries: float64, no gradient.

    What falls outside of [0, 1] is left out, so a row sums up to at most H * T; histograms of chunks add up.

    >>> histogram(torch.tensor([[[0.5]]]), torch.tensor([[[0.01]]]), bins=2).round(decimals=3).tolist()
    [[0.5, 0.5]]
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=mu.device)
    below = torch.special.ndtr((edges - mu.double()[..., None]) / var.double().sqrt()[..., None])
    return below.sum((1, 2)).diff(dim=-1).clamp_min(0)


def sticky_points(mass: Float[Tensor, "B bins"], count: int) -> Float[Tensor, "B P"]:
    """[B, count] ascending points of time, in float64, as dense as the `mass` of a histogram: its quantiles.

    Point i has (i + 0.5) / count of the mass before it, evenly spread within a bin; a row without mass gets
    `evenly(count)`. The authors draw the bins at random and take their left edges; quantiles need no generator and
    give each bin its share of the points to within one.

    >>> sticky_points(torch.tensor([[0.0, 3.0, 0.0, 1.0]]), 4).round(decimals=3).tolist()
    [[0.292, 0.375, 0.458, 0.875]]
    """
    mass = mass.double()
    mass = torch.where(mass.sum(-1, keepdim=True) > 0, mass, 1.0)
    upto = mass.cumsum(-1)
    upto = upto / upto[:, -1:]
    goal = evenly(count).to(mass.device).expand(len(mass), -1).contiguous()
    at = torch.searchsorted(upto, goal, right=True)
    before = torch.cat([torch.zeros_like(upto[:, :1]), upto], -1).gather(-1, at)
    return (at + (goal - before) / (upto.gather(-1, at) - before)) / mass.shape[-1]


def convolution_gate(
    x_BLE: Float[Tensor, "B L E"], weight: Float[Tensor, "E E 3"], bias: Float[Tensor, " E"]
) -> Float[Tensor, "B L E"]:
    """`x_BLE` times sigmoid(convolution of width 3 over the tokens, with zeros around): what is worth a place.

    A gate sees the next token too; the segment is complete when it is fitted.

    >>> convolution_gate(torch.tensor([[[2.0], [4.0]]]), torch.zeros(1, 1, 3), torch.zeros(1)).flatten().tolist()
    [1.0, 2.0]
    """
    return x_BLE * conv1d(x_BLE.transpose(1, 2), weight, bias, padding=1).sigmoid().transpose(1, 2)


def _normal(t: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """The density Normal(t; mean, var)."""
    return (-0.5 * (t - mean).square() / var).exp() / (2 * math.pi * var).sqrt()


def _pads(points: Tensor) -> Tensor:
    """Points beyond both ends of [0, 1], half of their number on either side, as far apart as if they were even."""
    beyond = (torch.arange(len(points) // 2, dtype=points.dtype, device=points.device) + 0.5) / len(points)
    return torch.cat([-beyond, 1 + beyond])
