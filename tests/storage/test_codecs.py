"""What holds for every codec, and the bytes that those of everlong have written since they exist."""

from __future__ import annotations

import zlib

import pytest
import torch

import everlong
from everlong.config import Registry
from everlong.errors import ConfigError
from everlong.storage.codecs.base import codec_class, codec_names

SHAPE = (2, 6, 3, 4)
"""Heads, tokens, key and value dims: odd sizes, so that half a byte and padding occur."""
GOLDEN = {
    ("native", torch.float32): (384, 3310532538, 3802011182, 3171759702),
    ("native", torch.bfloat16): (192, 198970618, 3802011182, 3171759702),
    ("bfloat16", torch.float32): (192, 198970618, 3802011182, 3171759702),
    ("bfloat16", torch.bfloat16): (192, 198970618, 3802011182, 3171759702),
    ("int8", torch.float32): (192, 277632225, 1577906930, 3480940053),
    ("int8", torch.bfloat16): (192, 277632225, 2859973258, 1034453155),
    ("int4", torch.float32): (192, 725129175, 3008882638, 913898499),
    ("int4", torch.bfloat16): (192, 725129175, 3889893320, 2733954336),
}
"""Bytes of a record, and the checksums of two records, of their keys and of their values."""


def checksum(x):
    return zlib.crc32(x.contiguous().numpy().tobytes())


def two_blocks(dtype, tokens):
    k = (torch.arange(2 * 2 * tokens * 3).reshape(2, 2, tokens, 3) % 17 - 8) / 4
    v = (torch.arange(2 * 2 * tokens * 4).reshape(2, 2, tokens, 4) % 13 - 6) / 8
    return k.to(dtype), v.to(dtype)


@pytest.mark.parametrize(("name", "dtype"), GOLDEN)
def test_records_are_those_that_kept_sessions_have(name, dtype):
    codec = codec_class(name)(*SHAPE, dtype)
    records = codec.encode(*two_blocks(dtype, tokens=5))
    k, v = codec.decode(records)
    assert (codec.record_bytes, *map(checksum, (records, k.float(), v.float()))) == GOLDEN[name, dtype]


@pytest.mark.parametrize("name", codec_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_codec_keeps_its_contract(name, dtype):
    codec = codec_class(name)(*SHAPE, dtype)
    k, v = two_blocks(dtype, tokens=6)
    records = codec.encode(k, v)
    assert codec.name == name
    assert records.shape == (2, codec.record_bytes)
    assert codec.record_bytes % 64 == 0
    assert torch.equal(records[1:], codec.encode(k[1:], v[1:])), "a record depends on its own block alone"
    for got, given in zip(codec.decode(records), (k, v), strict=True):
        assert got.shape == given.shape
        assert got.dtype == dtype
        assert (got - given).abs().max() < 0.2
    assert all(
        torch.equal(one, both[1]) for one, both in zip(codec.decode(records[1]), codec.decode(records), strict=True)
    )
    short = codec.decode(codec.encode(k[:, :, :4], v[:, :, :4]))
    assert all((got[:, :, :4] - x[:, :, :4]).abs().max() < 0.2 for got, x in zip(short, (k, v), strict=True))


@pytest.mark.parametrize("codec", ["int9", "", "INT8"])
def test_a_codec_that_does_not_exist_is_named_with_those_that_do(codec):
    with pytest.raises(ConfigError, match=r"codec .*: does not exist; .*known: bfloat16, int4, int8, native"):
        everlong.Blocks(codec=codec)


def test_a_name_of_ours_is_taken_before_its_file_is_imported():
    registry = Registry("codec", homes={"int8": "everlong.storage.codecs.integers"})
    stranger = type("Other", (), {"name": "int8"})
    with pytest.raises(ConfigError, match=r"codec 'int8': is everlong.storage.codecs.integers already; give .*Other"):
        registry.add(stranger)
