"""How a block of keys and values becomes a record of bytes, and back: a property of the store, not of a tier.

Letters: N blocks, G kv heads, L tokens per block, D head dim of keys, E head dim of values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.errors import ConfigError

CODECS = ("native", "bfloat16", "int8", "int4")
ALIGNMENT = 64


@dataclass(frozen=True)
class Codec:
    """Encodes blocks of one layer, keys [G, L, D] and values [G, L, E] of `dtype`.

    native and bfloat16 store the numbers; int8 and int4 store integers with a scale and an offset in float16, for keys
    per channel and for values per token (KIVI, arXiv 2402.02750).
    """

    name: str
    heads: int
    tokens: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise ConfigError(f"codec={self.name!r}: expected one of {', '.join(CODECS)}")

    @property
    def _stored(self) -> torch.dtype:
        return self.dtype if self.name == "native" else torch.bfloat16

    @property
    def _bits(self) -> int | None:
        return {"int8": 8, "int4": 4}.get(self.name)

    def _fields(self) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each field of a record, in order."""
        for dim, axis in ((self.key_dim, 1), (self.value_dim, 2)):
            shape = (self.heads, self.tokens, dim)
            if self._bits is None:
                yield shape, self._stored
            else:
                yield (*shape[:2], -(-dim * self._bits // 8)), torch.uint8
                scales = tuple(1 if i == axis else n for i, n in enumerate(shape))
                yield scales, torch.float16
                yield scales, torch.float16

    @property
    def record_bytes(self) -> int:
        """Bytes of one record, a multiple of 64."""
        size = sum(_padded(math.prod(shape) * dtype.itemsize) for shape, dtype in self._fields())
        return -(-size // ALIGNMENT) * ALIGNMENT

    def _views(self, records: Tensor) -> list[Tensor]:
        views = []
        at = 0
        for shape, dtype in self._fields():
            size = math.prod(shape) * dtype.itemsize
            views.append(records[..., at : at + size].view(dtype).unflatten(-1, shape))
            at += _padded(size)
        return views

    def encode(self, k: Float[Tensor, "N G n D"], v: Float[Tensor, "N G n E"]) -> UInt8[Tensor, "N bytes"]:
        """Records of blocks, where these lie; behind n < L tokens the last is repeated, which leaves each range."""
        records = torch.zeros(len(k), self.record_bytes, dtype=torch.uint8, device=k.device)
        views = self._views(records)
        if k.shape[2] < self.tokens:
            k, v = (torch.cat((x, x[:, :, -1:].expand(-1, -1, self.tokens - x.shape[2], -1)), 2) for x in (k, v))
        if self._bits is None:
            views[0].copy_(k)
            views[1].copy_(v)
            return records
        for x, axis, (codes, scale, low) in ((k, -2, views[:3]), (v, -1, views[3:])):
            codes.copy_(quantised(x.float(), axis, self._bits, scale, low))
        return records

    def decode(self, records: UInt8[Tensor, "*N bytes"]) -> tuple[Float[Tensor, "*N G L D"], Float[Tensor, "*N G L E"]]:
        """Keys and values of a record or of several; views of them where they store `dtype` itself."""
        views = self._views(records)
        if self._bits is None:
            return views[0].to(self.dtype), views[1].to(self.dtype)
        k, v = (
            _restored(codes, scale, low, dim, self._bits).to(self.dtype)
            for (codes, scale, low), dim in ((views[:3], self.key_dim), (views[3:], self.value_dim))
        )
        return k, v


def _padded(size: int) -> int:
    return -(-size // 16) * 16


def quantised(x: Tensor, axis: int, bits: int, scale: Tensor, low: Tensor) -> Tensor:
    """Codes of `x` in uint8 (two to a byte for 4 bits); fills `scale` and `low`."""
    least = x.amin(axis, keepdim=True)
    most = x.amax(axis, keepdim=True)
    top = (1 << bits) - 1
    low.copy_(least)
    scale.copy_((most - least) / top)
    steps = (x - low.float()) / scale.float().clamp_min(torch.finfo(torch.float16).tiny)
    codes = steps.round_().clamp_(0, top).to(torch.uint8)
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def _restored(codes: Tensor, scale: Tensor, low: Tensor, dim: int, bits: int) -> Tensor:
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)[..., :dim]
    return codes.float().mul_(scale.float()).add_(low.float())
