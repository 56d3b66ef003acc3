"""The continuous memory against ridge regression and integrals done the long way, in float64; what it keeps and loses.

The references share no formula with the module: densities come from torch.distributions, fits from least squares.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

from everlong.errors import ConfigError
from everlong.ops.infinity import (
    Basis,
    continuous_attention,
    convolution_gate,
    evenly,
    fit,
    fit_matrix,
    histogram,
    kl,
    read,
    refit,
    squeezed,
    sticky_points,
)


def randn(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def psi_naive(basis, t):
    """[.., N], Gaussian by Gaussian."""
    pairs = zip(basis.centres, basis.widths, strict=True)
    return torch.stack([Normal(mean, width).log_prob(t).exp() for mean, width in pairs], -1)


def fit_naive(basis, points, x, ridge=0.5):
    """The B of least |F^T B - X|^2 + ridge |B|^2, with zeros for X at points that go on from -0.5 to 1.5."""
    count = len(points)
    beyond = [(i + 0.5) / count for i in range(count) if (i + 0.5) / count < 0.5]
    pads = torch.tensor([-t for t in beyond] + [1 + t for t in beyond], dtype=torch.float64)
    rows = psi_naive(basis, torch.cat([points, pads]))
    shrink = math.sqrt(ridge) * torch.eye(len(basis.centres), dtype=torch.float64)
    target = torch.cat([x, torch.zeros(len(pads) + len(shrink), x.shape[1], dtype=torch.float64)])
    return torch.linalg.lstsq(torch.cat([rows, shrink]), target).solution


def attention_naive(q, k, v, w_mu, w_var, basis):
    """The integral of p(t) v(t) as a sum in steps of 0.001, with the scores of all Gaussians."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    s = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    mu, var = (s @ w_mu).sigmoid(), softplus(s @ w_var).clamp_min(1e-4)
    t = torch.linspace(-0.2, 1.2, 1401, dtype=torch.float64)
    density = Normal(mu[..., None], var.sqrt()[..., None]).log_prob(t).exp()
    return density @ (psi_naive(basis, t) @ v) / 1000, mu, var


def test_grid():
    basis = Basis.grid(6)
    assert basis.centres.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert basis.widths.tolist() == [0.005, 0.01] * 3
    assert Basis.grid(3, widths=(0.1, 0.2, 0.3)).centres.tolist() == [0, 0, 0]
    for count in (0, 7, -2):
        with pytest.raises(ConfigError, match=f"count={count}: must be a multiple of 2"):
            Basis.grid(count)


def test_psi_are_densities():
    basis, t = Basis.grid(10), torch.linspace(-0.2, 1.2, 1401, dtype=torch.float64)
    psi = basis.psi(t.view(3, 467))
    assert psi.shape == (3, 467, 10)
    torch.testing.assert_close(psi.view(1401, 10), psi_naive(basis, t), atol=1e-10, rtol=0)
    torch.testing.assert_close(psi.sum((0, 1)) / 1000, torch.ones(10, dtype=torch.float64), atol=1e-10, rtol=0)
    assert basis.psi(t.float()).dtype == torch.float32
    assert basis.psi(t.bfloat16()).dtype == torch.float32


def test_points():
    assert evenly(4, 0.5, 1.0).tolist() == [0.5625, 0.6875, 0.8125, 0.9375]
    points = squeezed(3, 5, tau=0.75)
    torch.testing.assert_close(points[:3], 0.75 * evenly(3))
    torch.testing.assert_close(points[3:], 0.75 + 0.25 * evenly(5))
    for tau in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match=f"tau={tau}: must lie between 0 and 1"):
            squeezed(3, 5, tau)


SIZES = [(1, 2), (7, 10), (63, 32), (100, 64), (33, 100)]


@pytest.mark.parametrize("ridge", [0.5, 2.0])
@pytest.mark.parametrize(("tokens", "gaussians"), SIZES)
def test_fit_is_ridge_regression(tokens, gaussians, ridge):
    basis, x = Basis.grid(gaussians), randn(tokens, 5)
    for points in (evenly(tokens), squeezed(tokens - tokens // 3, tokens // 3, 0.3)):
        matrix = fit_matrix(basis, points, ridge)
        assert matrix.shape == (tokens, gaussians)
        torch.testing.assert_close(fit(matrix, x), fit_naive(basis, points, x, ridge), atol=1e-10, rtol=0)


def test_fit_in_float32():
    """The matrix is solved for in float64 and cast once: a read-back differs by rounding (measured 5e-6)."""
    basis, x = Basis.grid(64), randn(2, 50, 3)
    matrix = fit_matrix(basis, evenly(50))
    assert matrix.dtype == torch.float64
    assert fit_matrix(basis, evenly(50).float()).dtype == torch.float64
    b = fit(matrix.float(), x.bfloat16())
    assert b.dtype == torch.float32
    exact = read(basis, fit(matrix, x.bfloat16().double()), evenly(50))
    torch.testing.assert_close(read(basis, b, evenly(50)).double(), exact, atol=1e-5, rtol=0)


def test_ridge_must_be_positive():
    with pytest.raises(ConfigError, match=r"ridge=0\.0: must be above 0"):
        fit_matrix(Basis.grid(4), evenly(3), ridge=0.0)


@pytest.mark.parametrize(("tokens", "gaussians", "bound"), [(512, 512, 1e-4), (100, 128, 2e-3)])
def test_smooth_signal_is_read_back(tokens, gaussians, bound):
    """Within the bound (measured 8e-6 and 1.5e-3) away from the ends, where the zeros beyond pull the signal down."""
    basis, x = Basis.grid(gaussians), torch.cos(3 * evenly(tokens))[None, :, None]
    back = read(basis, fit(fit_matrix(basis, evenly(tokens)), x), evenly(tokens))
    middle = slice(tokens // 10, -tokens // 10)
    assert (back - x)[:, middle].abs().max() < bound
    if tokens == gaussians == 512:
        assert (back / x)[0, -2:, 0].tolist() == pytest.approx([1.00, 0.70], abs=0.01)
        assert (back / x)[0, :2, 0].tolist() == pytest.approx([0.70, 1.00], abs=0.01)


def test_rows_are_fitted_alone():
    basis, x = Basis.grid(20), randn(3, 9, 2)
    matrix = fit_matrix(basis, evenly(9))
    torch.testing.assert_close(fit(matrix, x)[1], fit(matrix, x[1]), atol=1e-12, rtol=0)
    points = torch.rand(3, 4, dtype=torch.float64)
    torch.testing.assert_close(
        read(basis, fit(matrix, x), points)[2:], read(basis, fit(matrix, x[2:]), points[2]), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize(("samples", "tokens", "tau"), [(40, 13, 0.5), (1, 1, 0.75), (11, 30, 0.2)])
def test_refit_is_a_fit_of_samples_and_segment(samples, tokens, tau, sticky):
    basis, x = Basis.grid(32), randn(2, tokens, 3)
    old = fit(fit_matrix(basis, evenly(21)), randn(2, 21, 3))
    at = torch.rand(2, samples, dtype=torch.float64).sort(-1).values if sticky else evenly(samples)
    matrix = fit_matrix(basis, squeezed(samples, tokens, tau))
    new = refit(basis, matrix, old, x, at)
    places = torch.tensor(
        [tau * (i + 0.5) / samples for i in range(samples)]
        + [tau + (1 - tau) * (i + 0.5) / tokens for i in range(tokens)],
        dtype=torch.float64,
    )
    for row in range(2):
        values = psi_naive(basis, at[row] if sticky else at) @ old[row]
        expected = fit_naive(basis, places, torch.cat([values, x[row]]))
        torch.testing.assert_close(new[row], expected, atol=1e-10, rtol=0)


def test_old_signal_stands_at_its_squeezed_places():
    """x(tau t) after an update is x(t) before it, whatever came after: measured 0.003."""
    basis, middle = Basis.grid(512), evenly(301, 0.1, 0.9)
    old = fit(fit_matrix(basis, evenly(512)), torch.cos(3 * evenly(512))[None, :, None])
    matrix = fit_matrix(basis, squeezed(512, 512, 0.5))
    x = torch.sin(5 * evenly(512))[None, :, None]
    new = refit(basis, matrix, old, x, evenly(512))
    assert (read(basis, new, 0.5 * middle) - read(basis, old, middle)).abs().max() < 5e-3
    assert (read(basis, new, 0.5 + 0.5 * middle) - torch.sin(5 * middle)[:, None]).abs().max() < 5e-3
    other = refit(basis, matrix, old, -x, evenly(512))
    assert (read(basis, other - new, 0.5 * evenly(301, 0.0, 0.9))).abs().max() < 5e-3


def test_updates_blur_the_past():
    """Six waves over the first segment outlive three updates and are gone after six, as tau halves them each time."""
    basis, middle, wave = Basis.grid(512), evenly(301, 0.1, 0.9), 12 * math.pi
    b = fit(fit_matrix(basis, evenly(256)), torch.sin(wave * evenly(256))[None, :, None])
    matrix, lost = fit_matrix(basis, squeezed(512, 256, 0.5)), []
    for update in range(7):
        lost.append((read(basis, b, 0.5**update * middle)[0, :, 0] - torch.sin(wave * middle)).square().mean().item())
        b = refit(basis, matrix, b, randn(1, 256, 1), evenly(512))
    assert max(lost[:4]) < 1e-3
    assert lost[6] > 0.4


def test_sticky_points_keep_detail_where_the_mass_was():
    """Noise in a tenth of the past, which had three quarters of the attention, survives; read evenly it does not."""
    basis, tau = Basis.grid(128), 0.5
    old = fit(fit_matrix(basis, evenly(100)), randn(1, 100, 4))
    mass = torch.full((1, 128), 0.1, dtype=torch.float64)
    mass[:, 26:39] = 3.0
    matrix, x = fit_matrix(basis, squeezed(200, 100, tau)), randn(1, 100, 4)
    detail = evenly(100, 27 / 128, 38 / 128)
    before = mass[0].cumsum(0) / mass.sum()
    quantile = torch.stack([before[int(128 * t) - 1] + (128 * t % 1) * 3 / mass.sum() for t in detail])
    kept, lost = (
        (read(basis, refit(basis, matrix, old, x, points), tau * place) - read(basis, old, detail)).square().mean()
        for points, place in ((sticky_points(mass, 200), quantile), (evenly(200), detail))
    )
    assert kept < 0.02 * lost


SHAPES = [(1, 1, 1, 4), (4, 2, 7, 10), (3, 3, 5, 6), (6, 1, 3, 20)]


def attention_arguments(heads, kv_heads, tokens, gaussians, dtype=torch.float64, dim=5, spread=1.0):
    q, k = randn(2, heads, tokens, dim, dtype=dtype), randn(2, kv_heads, gaussians, dim, dtype=dtype)
    v, w = randn(2, kv_heads, gaussians, dim + 1, dtype=dtype), spread * randn(2, gaussians, dtype=dtype)
    return q, k, v, w[0], w[1]


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "gaussians"), SHAPES)
def test_attention_equals_the_integral(heads, kv_heads, tokens, gaussians, spread):
    """Narrow densities (the large spread reaches the floor of var) and wide ones."""
    given, basis = attention_arguments(heads, kv_heads, tokens, gaussians, spread=spread), Basis.grid(gaussians)
    for got, expected in zip(continuous_attention(*given, basis), attention_naive(*given, basis), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_attention_in_other_types(dtype, tolerance):
    """Relative to the largest output: half types are rounded once, at the end."""
    given, basis = attention_arguments(4, 2, 7, 10, dtype), Basis.grid(10)
    out, mu, var = continuous_attention(*given, basis)
    exact, mu_exact, var_exact = attention_naive(*(x.double() for x in given), basis)
    assert out.dtype == dtype
    assert mu.dtype == var.dtype == torch.float32
    assert (out.double() - exact).abs().max() < tolerance * exact.abs().max()
    torch.testing.assert_close(mu.double(), mu_exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(var.double(), var_exact, atol=1e-6, rtol=1e-6)


def test_half_queries_read_a_rough_signal():
    """Its coefficients cancel: a product in bfloat16 would lose a sixth of it, measured; float32 loses nothing."""
    basis = Basis.grid(256)
    v = fit(fit_matrix(basis, evenly(512)).float(), randn(1, 1, 512, 4, dtype=torch.float32))
    q, k, w_mu, w_var = randn(1, 2, 50, 4), randn(1, 1, 256, 4), randn(256), -torch.ones(256, dtype=torch.float64)
    given = q.bfloat16(), k.float(), v, 0.1 * w_mu.float(), w_var.float()
    out = continuous_attention(*given, basis)[0]
    exact = attention_naive(*(x.double() for x in given), basis)[0]
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() < 4e-3 * exact.abs().max()


def test_attention_reads_the_place_it_points_at():
    """A density of the least width on a smooth signal gives the signal there: measured within 0.0004."""
    basis, tokens = Basis.grid(256), 300
    v = fit(fit_matrix(basis, evenly(tokens)), torch.cos(3 * evenly(tokens))[None, None, :, None])
    k = torch.ones(1, 1, 256, 1, dtype=torch.float64)
    q = torch.tensor([-1.5, -0.4, 0.0, 0.7, 1.9], dtype=torch.float64).view(1, 1, 5, 1)
    first = torch.zeros(256, dtype=torch.float64)
    first[0] = 1.0
    out, mu, var = continuous_attention(q, k, v, first, -100 * first.abs(), basis)
    torch.testing.assert_close(mu.flatten(), q.flatten().sigmoid())
    assert var[0, 0, 3:].tolist() == [1e-4, 1e-4]
    torch.testing.assert_close(out[0, 0, 3:, 0], torch.cos(3 * mu[0, 0, 3:]), atol=1e-3, rtol=0)


def test_attention_takes_any_strides():
    q, k, v, w_mu, w_var = attention_arguments(4, 2, 7, 10)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k[:1].expand(2, -1, -1, -1), v))
    basis = Basis.grid(10)
    expected = attention_naive(q, k, v, w_mu, w_var, basis)[0]
    torch.testing.assert_close(continuous_attention(q, k, v, w_mu, w_var, basis)[0], expected, atol=1e-10, rtol=0)


def test_gradients_of_attention():
    basis = Basis.grid(6, widths=(0.05, 0.1))
    given = [x.requires_grad_() for x in attention_arguments(2, 1, 2, 6, dim=2)]
    assert torch.autograd.gradcheck(lambda *x: continuous_attention(*x, basis), given)


def test_gradients_of_memory():
    basis = Basis.grid(6, widths=(0.05, 0.1))
    matrix = fit_matrix(basis, squeezed(5, 3, 0.5))
    b, x = randn(2, 6, 2).requires_grad_(), randn(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda b, x: refit(basis, matrix, b, x, evenly(5)), (b, x))
    weight, bias = randn(2, 2, 3).requires_grad_(), randn(2).requires_grad_()
    assert torch.autograd.gradcheck(convolution_gate, (x, weight, bias))
    mu, var = randn(2, 3).requires_grad_(), (1e-3 + torch.rand(2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda mu, var: kl(mu, var, 0.5, mu_0=0.3), (mu, var))


def test_kl():
    mu, var = torch.rand(2, 3, 5, dtype=torch.float64), 1e-4 + torch.rand(2, 3, 5, dtype=torch.float64)
    density, wide = Normal(mu, var.sqrt()), torch.full_like(mu, 0.05)
    torch.testing.assert_close(kl(mu, var), kl_divergence(density, Normal(mu, wide)), atol=1e-10, rtol=0)
    prior = Normal(torch.full_like(mu, 0.4), 4 * wide)
    torch.testing.assert_close(kl(mu, var, 0.2, mu_0=0.4), kl_divergence(density, prior), atol=1e-10, rtol=0)
    assert kl(mu, wide**2).abs().max() < 1e-12


@pytest.mark.parametrize("bins", [1, 63, 128])
def test_histogram(bins):
    mu, var = torch.rand(2, 3, 5, dtype=torch.float64), 10.0 ** -(4 * torch.rand(2, 3, 5, dtype=torch.float64))
    mass, density = histogram(mu.requires_grad_(), var, bins), Normal(mu, var.sqrt())
    edges = [torch.tensor(i / bins, dtype=torch.float64) for i in range(bins + 1)]
    expected = [(density.cdf(edges[i + 1]) - density.cdf(edges[i])).sum((1, 2)) for i in range(bins)]
    torch.testing.assert_close(mass, torch.stack(expected, -1).detach(), atol=1e-10, rtol=0)
    assert (mass >= 0).all()
    assert (mass.sum(-1) < 15).all()
    parts = histogram(mu[..., :2], var[..., :2], bins) + histogram(mu[..., 2:], var[..., 2:], bins)
    torch.testing.assert_close(parts, mass, atol=1e-10, rtol=0)
    assert histogram(mu.float(), var.float(), bins).dtype == torch.float64


@pytest.mark.parametrize("count", [1, 63, 512])
def test_sticky_points_of_even_mass_are_even(count):
    for mass in (torch.zeros(2, 128), torch.full((2, 128), 0.3), torch.full((2, 7), 1e-30)):
        torch.testing.assert_close(sticky_points(mass, count), evenly(count).expand(2, -1), atol=1e-9, rtol=0)


def test_sticky_points_share_the_mass():
    mass = torch.rand(3, 128) ** 4
    mass[0, :40] = 0.0
    mass[1, 100:] = 0.0
    mass[2] = 0.0
    mass[2, 77] = 1e-3
    points = sticky_points(mass, 500)
    assert (points.diff(dim=-1) > 0).all()
    assert (points > 0).all()
    assert (points < 1).all()
    for row in range(3):
        got = torch.histc(points[row], 128, 0, 1)
        assert (got - 500 * mass[row].double() / mass[row].double().sum()).abs().max() <= 1
        assert not got[mass[row] == 0].any()
    torch.testing.assert_close(sticky_points(100 * mass, 500), points, atol=1e-6, rtol=0)
    torch.testing.assert_close(sticky_points(mass[1:2], 500), points[1:2], atol=0, rtol=0)


def test_a_sticky_point_between_two_masses_starts_the_later_one():
    assert sticky_points(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), 1).tolist() == [[0.75]]


def test_convolution_gate():
    x, weight, bias = randn(2, 5, 3), randn(3, 3, 3), randn(3)
    padded = torch.cat([torch.zeros(2, 1, 3, dtype=torch.float64), x, torch.zeros(2, 1, 3, dtype=torch.float64)], 1)
    out = convolution_gate(x, weight, bias)
    for i in range(5):
        gate = sum(padded[:, i + d] @ weight[:, :, d].T for d in range(3)) + bias
        torch.testing.assert_close(out[:, i], x[:, i] * gate.sigmoid(), atol=1e-12, rtol=0)
