"""Codecs that store integers with a scale and an offset: `int8` a byte for each number, `int4` half a byte.

Scales and offsets are float16, for keys one per channel and for values one per token (KIVI, arXiv 2402.02750).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.storage.codecs.base import Codec

CHANNEL, TOKEN = -2, -1
"""The axis over which numbers share a scale: of a channel all tokens, of a token all channels."""


class _Integers(Codec):
    """Codes, scales and offsets of the keys, then of the values; `bits` of a code."""

    bits: ClassVar[int]

    def fields(self) -> Iterator[tuple[tuple[int, ...], torch.dtype]]:
        """Codes in whole bytes, scales, offsets."""
        for dim, axis in ((self.key_dim, CHANNEL), (self.value_dim, TOKEN)):
            shape = [self.heads, self.tokens, dim]
            yield (*shape[:2], -(-dim * self.bits // 8)), torch.uint8
            shape[axis] = 1
            yield tuple(shape), torch.float16
            yield tuple(shape), torch.float16

    def fill(self, fields: Sequence[Tensor], k: Float[Tensor, "N G L D"], v: Float[Tensor, "N G L E"]) -> None:
        """Quantise keys by channel and values by token."""
        for x, axis, (codes, scale, low) in ((k, CHANNEL, fields[:3]), (v, TOKEN, fields[3:])):
            codes.copy_(quantised(x.float(), axis, self.bits, scale, low))

    def restored(self, fields: Sequence[Tensor]) -> tuple[Float[Tensor, "*N G L D"], Float[Tensor, "*N G L E"]]:
        """The middle of each step."""
        k = _restored(fields[:3], self.key_dim, self.bits)
        v = _restored(fields[3:], self.value_dim, self.bits)
        return k.to(self.dtype), v.to(self.dtype)


@dataclass(frozen=True)
class Int8(_Integers):
    """256 steps between the least and the largest number."""

    name: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8


@dataclass(frozen=True)
class Int4(_Integers):
    """16 steps, two codes to a byte."""

    name: ClassVar[str] = "int4"
    bits: ClassVar[int] = 4


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


def _restored(fields: Sequence[Tensor], dim: int, bits: int) -> Tensor:
    codes, scale, low = fields
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)[..., :dim]
    return codes.float().mul_(scale.float()).add_(low.float())
