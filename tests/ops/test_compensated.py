"""Rounding that makes up for its errors: what the paper's loop gives, and nearer to a layer's outputs than without."""

from __future__ import annotations

import pytest
import torch

from everlong.ops.compensated import BLOCK, DAMPED, moments, quantise_compensated
from everlong.ops.packed import GROUP, unpack
from everlong.ops.quantise import fitted, quantise


def inputs(tokens: int, width: int) -> torch.Tensor:
    """Inputs that go together, some of them large."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(tokens, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return mixed / width**0.5 * (1 + 5 * (torch.arange(width) % 7 == 0))


def naive(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 in its own order, a column at a time over all later ones, in float64 (one block)."""
    w = weight.double().clone()
    h = x.double().t() @ x.double()
    h += DAMPED * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    out = torch.empty_like(w)
    for n in range(w.shape[1]):
        if n % GROUP == 0:
            scale, low = (s.double() for s in fitted(w[:, None, n : n + GROUP].float()))
        code = ((w[:, n] - low[:, 0]) / scale[:, 0]).round().clamp(0, 15)
        out[:, n] = low[:, 0] + code * scale[:, 0]
        error = (w[:, n] - out[:, n]) / u[n, n]
        w[:, n + 1 :] -= error[:, None] * u[n, n + 1 :]
    return out


def test_gives_what_the_papers_loop_gives():
    weight = torch.randn(17, 96, generator=torch.Generator().manual_seed(1))
    x = inputs(200, 96)
    found = unpack(quantise_compensated(weight, moments(x)), "q4", 17, 96)
    expected = naive(weight, x).float()
    assert ((found - expected).abs() > 1e-3).float().mean() < 0.01  # codes at a tie may differ


@pytest.mark.parametrize("width", [96, 544, BLOCK + 96])
def test_outputs_are_nearer_than_by_rounding_each_weight_alone(width):
    weight = torch.randn(33, width, generator=torch.Generator().manual_seed(1))
    x = inputs(400, width)
    plain = unpack(quantise(weight, "q4"), "q4", 33, width)
    found = unpack(quantise_compensated(weight, moments(x)), "q4", 33, width)
    errors = [(x @ (w - weight).t()).square().mean() for w in (found, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_dead_inputs_do_no_harm():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    x = inputs(100, 64)
    x[:, ::3] = 0
    found = unpack(quantise_compensated(weight, moments(x)), "q4", 8, 64)
    assert torch.isfinite(found).all()
    assert (x @ (found - weight).t()).square().mean() < (x @ weight.t()).square().mean() / 100
    nothing = unpack(quantise_compensated(weight, torch.zeros(1, 64, 64)), "q4", 8, 64)
    assert (nothing - weight).abs().max() < 0.4


def test_the_weights_that_were_given_stay_as_they_are():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    before = weight.clone()
    quantise_compensated(weight, moments(inputs(100, 64)))
    assert torch.equal(weight, before)
