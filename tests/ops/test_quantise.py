"""Rounding to 4 and 8 bits: what it costs, and what it leaves as it was."""

from __future__ import annotations

import gguf
import pytest
import torch

from everlong.ops import packed
from everlong.ops.quantise import held_in_four_bits, quantise


def weights(outputs, inputs):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))


def as_gguf(w, kind):
    """The weights as a GGUF file of this type gives them back."""
    return torch.from_numpy(gguf.dequantize(gguf.quantize(w.numpy(), kind), kind).copy())


def back(data, form, like):
    return packed.unpack(data, form, *like.shape)


@pytest.mark.parametrize(("form", "most"), [("q4", 0.074), ("q8", 0.006)])
def test_rounding_costs_what_its_bits_cost(form, most):
    w = weights(64, 96)
    found = packed.unpack(quantise(w, form), form, 64, 96)
    assert (found - w).norm() <= most * w.norm()


def test_what_was_rounded_stays_as_it_is():
    w = weights(48, 64)
    for form in ("q4", "q8"):
        once = packed.unpack(quantise(w, form), form, 48, 64)
        again = packed.unpack(quantise(once, form), form, 48, 64)
        assert (again - once).abs().max() <= 1e-3 * once.abs().max()


@pytest.mark.parametrize("form", ["q4", "q8"])
def test_constant_and_zero_groups(form):
    w = torch.zeros(17, 64)
    w[3] = 0.5
    w[4] = -2.0
    assert torch.equal(packed.unpack(quantise(w, form), form, 17, 64)[:3], w[:3])
    found = packed.unpack(quantise(w, form), form, 17, 64)
    assert torch.allclose(found, w, rtol=1e-3)


def test_weights_of_four_bits_with_a_minimum_stay_what_they_were():
    w = as_gguf(weights(48, 96), gguf.GGMLQuantizationType.Q4_1)
    assert torch.equal(back(held_in_four_bits(w), "q4", w), w)


def test_weights_of_four_bits_around_zero_are_held_as_float16_holds_their_lowest():
    w = as_gguf(weights(48, 96), gguf.GGMLQuantizationType.Q4_0)
    found = back(held_in_four_bits(w), "q4", w)
    assert (found - w).abs().max() <= 2**-11 * w.abs().max()


def test_weights_of_eight_bits_stay_what_they_were():
    w = as_gguf(weights(48, 96), gguf.GGMLQuantizationType.Q8_0)
    assert torch.equal(back(quantise(w, "q8"), "q8", w), w)
    assert held_in_four_bits(w) is None


def test_scales_that_float16_rounds_are_held_nearly():
    """Q4_K has scales and minima of 6 bits over common ones: their products have more digits than float16."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (64, 8, 32), generator=generator).float()
    codes[:, 1::2] = codes[:, 1::2].clamp(2, 11)
    scale = torch.randint(1, 64, (64, 8, 1), generator=generator) * 0.0123456
    minimum = torch.randint(0, 64, (64, 8, 1), generator=generator) * 0.0123456
    w = (scale * codes - minimum).flatten(1)
    found = back(held_in_four_bits(w), "q4", w)
    assert (found - w).abs().max() <= 0.02 * scale.max()
    assert (found - w).norm() <= 1e-3 * w.norm()


def test_weights_that_need_more_bits_are_told():
    assert held_in_four_bits(weights(48, 96)) is None
    assert held_in_four_bits(torch.zeros(17, 45)) is not None
