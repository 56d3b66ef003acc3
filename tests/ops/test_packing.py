"""Packing in C: the panels that torch makes, bit by bit."""

from __future__ import annotations

import pytest
import torch

from everlong.ops import packed_blocks, quantise
from everlong.ops.gguf_blocks import KINDS
from everlong.ops.native import extension
from tests.ops.test_gguf_blocks import rows

pytestmark = pytest.mark.skipif(extension() is None, reason="no C extension here")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: KINDS[kind].name)
@pytest.mark.parametrize("form", ["q4", "q8"])
@pytest.mark.parametrize("count", [1, 16, 37])
def test_blocks_of_a_file(monkeypatch, kind, form, count):
    raw = rows(kind, count, blocks=3, seed=count)
    if KINDS[kind].name == "Q8_0":
        codes = raw.view(-1, 34)[:, 2:]
        codes[codes == 128] = 127  # a code that 8 bits around zero do not hold
    # Scales whose rounding counts are those of Q4_K alone; random ones are far apart, and most are moved too far.
    monkeypatch.setattr(packed_blocks, "_STRAYS", 1)
    found = packed_blocks.from_blocks(raw, kind, form)
    monkeypatch.setattr(packed_blocks, "extension", lambda: None)
    want = packed_blocks.from_blocks(raw, kind, form)
    assert (found is None) == (want is None)
    if want is not None:
        assert torch.equal(found, want)


@pytest.mark.parametrize("by", ["C", "torch"])
def test_what_is_not_held_is_not_packed(monkeypatch, by):
    if by == "torch":
        monkeypatch.setattr(packed_blocks, "extension", lambda: None)
    raw = rows(8, 16, blocks=3, seed=1)
    codes = raw.view(-1, 34)[:, 2:]
    codes[codes == 128] = 127
    assert packed_blocks.from_blocks(raw, 8, "q8") is not None
    codes[40, 3] = 128
    assert packed_blocks.from_blocks(raw, 8, "q8") is None
    small = rows(12, 16, seed=1)
    small.view(-1, 144)[:, 0:4] = torch.tensor([1, 0, 1, 0], dtype=torch.uint8)  # scales that float16 holds badly
    assert packed_blocks.from_blocks(small, 12, "q4") is not None
    small.view(-1, 144)[:, 0:4] = torch.tensor([255, 123, 255, 123], dtype=torch.uint8)  # 65504, times up to 63
    assert packed_blocks.from_blocks(small, 12, "q4") is None


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (37, 45), (63, 100), (100, 256)])
@pytest.mark.parametrize("size", [1e-7, 1e-3, 1.0, 1e4, 3e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_to_eight_bits(monkeypatch, shape, size, dtype):
    w = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    w[0] = 0
    if len(w) > 9:
        w[9] = torch.arange(shape[1]) % 17 - 8  # steps that are held as they are
    found = quantise.quantise(w, "q8")
    monkeypatch.setattr(quantise, "extension", lambda: None)
    assert torch.equal(found, quantise.quantise(w, "q8"))
