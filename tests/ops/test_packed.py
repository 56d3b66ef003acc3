"""Packed weights: what they stand for, and every kernel against the same product in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from everlong.errors import ConfigError
from everlong.ops import native, packed
from everlong.ops.quantise import quantise

LEVELS = ("scalar", "avx2", "avx512", "vnni")
SHAPES = ((1, 1), (16, 32), (37, 45), (63, 100), (100, 63), (129, 256))
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-8}
"""Of the largest output: activations are rounded to 2**-20 of the largest of 32, bfloat16 is its own rounding."""


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Each set of instructions that this processor has, in turn, for any number of rows."""
    found = native.extension()
    if found is None:
        pytest.skip("needs the C extension: install a compiler, then run python native/build.py")
    if request.param not in found.levels():
        pytest.skip(f"this processor has no {request.param}")
    before = found.level()
    found.set_level(request.param)
    monkeypatch.setitem(packed._FEW_ROWS, request.param, (10**6, 10**6))
    yield request.param
    found.set_level(before)


@pytest.fixture
def without(monkeypatch):
    """No extension."""
    monkeypatch.setenv(native.SWITCH, "0")
    native.extension.cache_clear()
    yield
    native.extension.cache_clear()


def weights(outputs, inputs, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def assert_close(y, x, w, bias):
    want = F.linear(x.double(), w.double(), None if bias is None else bias.double())
    assert y.shape == want.shape
    assert y.dtype == x.dtype
    assert (y.double() - want).abs().max() <= TOLERANCE[x.dtype] * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["q4", "q8"])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_kernels_equal_the_product_with_unpacked_weights(level, form, outputs, inputs, dtype):
    data = quantise(weights(outputs, inputs), form)
    w = packed.unpack(data, form, outputs, inputs)
    for rows in (1, 2, 3, 4, 5, 8, 17):
        x = weights(rows, inputs, seed=rows).to(dtype)
        bias = weights(1, outputs, seed=9)[0].to(dtype) if rows % 2 else None
        assert_close(packed.linear(x, data, form, outputs, bias), x, w, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["q4", "q8"])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_many_rows_equal_the_product_with_unpacked_weights(level, form, outputs, inputs, dtype, monkeypatch):
    """Weights are unpacked by the kernel in tiles of a panel, rounded as torch rounds them."""
    monkeypatch.setitem(packed._FEW_ROWS, level, (0, 0))
    monkeypatch.setattr(packed, "_TILE_BYTES", 1)
    data = quantise(weights(outputs, inputs), form)
    w = packed.unpack(data, form, outputs, inputs, dtype)
    x, bias = weights(7, inputs, seed=1).to(dtype), weights(1, outputs, seed=9)[0].to(dtype)
    found = packed._transposed(native.extension(), data, form, x).t()[:outputs]
    assert torch.allclose(found.float(), w.float(), rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    want = F.linear(x.float(), w.float(), bias.float())
    got = packed.linear(x, data, form, outputs, bias).float()
    assert (got - want).abs().max() <= (1e-5 if dtype == torch.float32 else 2**-7) * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_kernels_of_plain_weights_equal_the_product(level, held, outputs, inputs, dtype):
    w = weights(outputs, inputs).to(held)
    for rows in (1, 2, 3, 4, 5, 8):
        x = weights(rows, inputs, seed=rows).to(dtype)
        bias = weights(1, outputs, seed=9)[0].to(dtype) if rows % 2 else None
        assert_close(packed.plain_linear(x, w, bias), x, w, bias)


@pytest.mark.parametrize("form", ["q4", "q8"])
def test_a_row_is_the_same_bits_among_any_others(level, form):
    data = quantise(weights(48, 96), form)
    x = weights(9, 96, seed=1)
    together = packed.linear(x, data, form, 48)
    for row in range(9):
        assert torch.equal(packed.linear(x[row : row + 1], data, form, 48)[0], together[row])


@pytest.mark.parametrize("form", ["q4", "q8"])
def test_any_threads_give_the_same_bits(level, form):
    data = quantise(weights(100, 96), form)
    x = weights(3, 96, seed=1)
    one = packed.linear(x, data, form, 100)
    torch.set_num_threads(2)
    assert torch.equal(packed.linear(x, data, form, 100), one)


@pytest.mark.parametrize("form", ["q4", "q8"])
def test_extreme_inputs(level, form):
    """Zeros, one large value among small ones, tiny and huge ones; what is not finite spoils its own row alone."""
    data = quantise(weights(20, 64), form)
    w = packed.unpack(data, form, 20, 64)
    x = weights(6, 64, seed=1)
    x[0] = 0
    x[1, 3] = 1e4
    x[2] *= 1e-20
    x[3] *= 1e20
    x[4, 40] = torch.nan
    x[5, 2] = torch.inf
    y = packed.linear(x, data, form, 20)
    for row in range(4):
        assert_close(y[row : row + 1], x[row : row + 1], w, None)
    assert y[4:].isnan().all()


def test_codes_at_their_limits(level):
    """All codes and digits at their largest, where sums of 16 bits would overflow."""
    for form, low, high in (("q4", 0, 15), ("q8", -127, 127)):
        codes = torch.full((16, 4, 32), high, dtype=torch.int8)
        codes[::2] = low
        scale = torch.ones(16, 4)
        data = packed.pack(codes.to(torch.uint8) if form == "q4" else codes, scale, -scale if form == "q4" else None)
        w = packed.unpack(data, form, 16, 128)
        for x in (torch.ones(2, 128), -torch.ones(2, 128), torch.full((2, 128), 3.0).bfloat16()):
            assert_close(packed.linear(x, data, form, 16), x, w, None)


def test_any_axes_and_strides(level):
    data = quantise(weights(40, 64), "q4")
    x = weights(64, 6, seed=1).t().reshape(2, 3, 64)
    assert not weights(64, 6).t().is_contiguous()
    got = packed.linear(x, data, "q4", 40)
    assert_close(got, x, packed.unpack(data, "q4", 40, 64), None)
    strided = packed.linear(weights(64, 6, seed=1).t(), data, "q4", 40)
    assert torch.equal(strided, got.reshape(6, 40))
    assert packed.linear(x[:0], data, "q4", 40).shape == (0, 3, 40)


@pytest.mark.parametrize("form", ["q4", "q8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_alone_gives_the_same(without, form, dtype):
    assert native.extension() is None
    data = quantise(weights(37, 45), form)
    x, bias = weights(3, 45, seed=1).to(dtype), weights(1, 37, seed=2)[0].to(dtype)
    want = F.linear(x.float(), packed.unpack(data, form, 37, 45), bias.float())
    got = packed.linear(x, data, form, 37, bias)
    assert got.dtype == dtype
    assert (got.float() - want).abs().max() <= (1e-5 if dtype == torch.float32 else 0.02) * want.abs().max()


def test_torchs_own_product_of_four_bits_gives_the_same_within_its_rounded_scales():
    data = quantise(weights(37, 45), "q4")
    x, bias = weights(3, 45, seed=1).bfloat16(), weights(1, 37, seed=2)[0].bfloat16()
    want = F.linear(x.float(), packed.unpack(data, "q4", 37, 45), bias.float())
    got = packed.int4pack_linear(x, *packed.as_int4pack(data, 45), 37, bias)
    assert (got.float() - want).abs().max() <= 0.02 * want.abs().max()


@pytest.mark.parametrize("form", ["q4", "q8"])
def test_inputs_get_their_gradient(form):
    data = quantise(weights(37, 45), form)
    x = weights(3, 45, seed=1).requires_grad_()
    packed.linear(x, data, form, 37).sum().backward()
    assert torch.allclose(x.grad, packed.unpack(data, form, 37, 45).sum(0).expand(3, -1), atol=1e-5)


def test_the_switch_takes_what_the_processor_has_and_refuses_the_rest(monkeypatch):
    if native.extension() is None:
        pytest.skip("needs the C extension: install a compiler, then run python native/build.py")
    best = native.extension().level()
    monkeypatch.setenv(native.SWITCH, "scalar")
    native.extension.cache_clear()
    assert native.extension().level() == "scalar"
    assert native.description() == "C, scalar"
    native.extension().set_level(best)
    monkeypatch.setenv(native.SWITCH, "sse9")
    native.extension.cache_clear()
    with pytest.raises(ConfigError, match="EVERLONG_NATIVE=sse9: expected 0, 1 or one of scalar"):
        native.extension()
    monkeypatch.undo()
    native.extension.cache_clear()
