"""Blocks of GGUF files: the same bits as the package gguf has, in C and in torch."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from everlong.ops import gguf_blocks
from everlong.ops.gguf_blocks import KINDS


def rows(kind: int, count: int = 7, blocks: int = 3, seed: int = 0) -> torch.Tensor:
    """Random blocks whose scales are finite numbers."""
    of = KINDS[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (count * blocks, of.bytes), dtype=np.uint8)
    halves = raw[:, -2:] if of.name == "Q6_K" else raw[:, : 4 if of.has_minima else 2]
    halves[:, 1::2] &= 0xBF  # below 2
    return torch.from_numpy(raw.reshape(count, -1))


def by_the_package(raw: torch.Tensor, kind: int) -> torch.Tensor:
    return torch.from_numpy(gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType(kind)).copy())


@pytest.fixture(params=["C", "torch"])
def _by(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(gguf_blocks, "extension", lambda: None)
    elif gguf_blocks.extension() is None:
        pytest.skip("no C extension here")


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: KINDS[kind].name)
def test_weights_are_the_bits_of_the_package(kind):
    raw = rows(kind)
    want = by_the_package(raw, kind)
    assert torch.equal(gguf_blocks.weights(raw, kind), want)
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.equal(gguf_blocks.weights(raw, kind, dtype), want.to(dtype))
    assert gguf_blocks.weights(raw[:0], kind).shape == (0, want.shape[1])


@pytest.mark.usefixtures("_by")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: KINDS[kind].name)
def test_codes_with_scales_are_the_weights(kind):
    raw = rows(kind, seed=1)
    of = KINDS[kind]
    found = gguf_blocks.codes(raw, kind)
    made = found.codes.float().unflatten(1, (-1, of.group)) * found.scale[..., None]
    assert (found.minimum is not None) == of.has_minima
    if found.minimum is not None:
        made = made + found.minimum[..., None]
    assert torch.equal(made.flatten(1), by_the_package(raw, kind))


def test_sizes_are_those_of_the_package():
    for number, of in KINDS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (of.name, of.weights, of.bytes)


def test_rows_of_which_columns_were_cut(monkeypatch):
    """Rows that do not lie one after the other, as a part of a larger tensor does not."""
    raw = rows(8, count=6, blocks=4)
    part = raw[::2, : 2 * 34]
    assert torch.equal(gguf_blocks.weights(part, 8), by_the_package(part.contiguous(), 8))
    with_c = gguf_blocks.codes(part, 8)
    monkeypatch.setattr(gguf_blocks, "extension", lambda: None)
    assert torch.equal(with_c.codes, gguf_blocks.codes(part, 8).codes)


def test_an_unknown_kind_is_refused_by_the_extension():
    native = gguf_blocks.extension()
    if native is None:
        pytest.skip("no C extension here")
    for kind in (0, 1, 5, 9, 99):
        with pytest.raises(ValueError, match="no known kind of blocks"):
            native.gguf_weights(0, 0, 0, kind, 0)
        with pytest.raises(ValueError, match="no known kind of blocks"):
            native.gguf_codes(0, 0, 0, 0, 0, kind)
