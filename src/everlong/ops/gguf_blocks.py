"""Blocks of weights as GGUF files hold them, as weights and as codes with scales.

A block has 32 or 256 codes of 4 to 8 bits that share a float16 scale; the large ones have small scales, and some kinds
minima, for each group of 32 codes (16 in Q6_K): `weight = scale * code`, or `scale * code + minimum`. The layouts are
those of ggml (https://github.com/ggml-org/ggml, ggml-common.h). Weights are the same bits as those of the package gguf.

N blocks, B bytes of a block, R rows, W bytes of a row, I inputs, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from everlong.ops.native import extension

_TILE = 2**20
"""Weights that are unpacked at once, so that what lies between fits a cache."""


@dataclass(frozen=True)
class Kind:
    """Of a block: weights, bytes, codes to a scale. Of the kind: whether there are minima."""

    name: str
    weights: int
    bytes: int
    group: int = 32
    has_minima: bool = False


@dataclass(frozen=True)
class Codes:
    """Whole numbers [R, I] with the scale and, if the kind has any, minimum [R, G] of each group, in float32."""

    codes: Int8[Tensor, "R I"]
    scale: Float[Tensor, "R G"]
    minimum: Float[Tensor, "R G"] | None


KINDS = {
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20, has_minima=True),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24, has_minima=True),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144, has_minima=True),
    13: Kind("Q5_K", 256, 176, has_minima=True),
    14: Kind("Q6_K", 256, 210, group=16),
    20: Kind("IQ4_NL", 32, 18),
    23: Kind("IQ4_XS", 256, 136),
}
"""By the numbers that the files have."""
_STEPS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the codes of the IQ4 kinds stand for."""


def weights(rows: UInt8[Tensor, "R W"], kind: int, dtype: torch.dtype = torch.float32) -> Float[Tensor, "R I"]:
    """The weights of rows of blocks, rounded once to `dtype`."""
    of = KINDS[kind]
    inputs = rows.shape[1] // of.bytes * of.weights
    out = torch.empty(len(rows), inputs, dtype=dtype)
    native = extension()
    if native is not None and dtype in (torch.float32, torch.bfloat16):
        rows = rows.contiguous()
        count = rows.numel() // of.bytes
        native.gguf_weights(out.data_ptr(), rows.data_ptr(), count, kind, dtype == torch.bfloat16)
        return out
    step = max(1, _TILE // max(1, inputs))
    for at in range(0, len(rows), step):
        out[at : at + step] = _weights(codes(rows[at : at + step], kind), of)
    return out


def codes(rows: UInt8[Tensor, "R W"], kind: int) -> Codes:
    """The codes of rows of blocks, with scales and minima."""
    of = KINDS[kind]
    blocks = rows.reshape(-1, of.bytes)
    count = len(blocks)
    native = extension()
    if native is None:
        found, scale, minimum = _CODES[of.name](blocks)
    else:
        blocks = blocks.contiguous()
        found = torch.empty(count, of.weights, dtype=torch.int8)
        scale = torch.empty(count, of.weights // of.group)
        minimum = torch.empty_like(scale)
        address = found.data_ptr(), scale.data_ptr(), minimum.data_ptr(), blocks.data_ptr()
        native.gguf_codes(*address, count, kind)
    shape = len(rows), -1
    kept = minimum.reshape(shape) if of.has_minima and minimum is not None else None
    return Codes(found.reshape(shape), scale.reshape(shape), kept)


def _weights(found: Codes, of: Kind) -> Float[Tensor, "R I"]:
    wide = found.codes.float().unflatten(1, (-1, of.group)).mul_(found.scale[..., None])
    if found.minimum is not None:
        wide += found.minimum[..., None]
    return wide.flatten(1)


def _half(blocks: UInt8[Tensor, "N B"], at: int) -> Float[Tensor, "N 1"]:
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _halves(found: Tensor) -> Tensor:
    """Bytes [..., L] as codes [..., 2 L]: the lower halves, then the upper ones."""
    return torch.cat([found & 15, found >> 4], -1)


def _bits(found: Tensor, shifts: range, mask: int) -> Tensor:
    """[..., L] shifted by each of `shifts` [..., S, L], and cut to a mask."""
    return (found[..., None, :] >> torch.tensor(shifts, dtype=found.dtype)[:, None]) & mask


def _fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """A bit for each of 32 codes, in place 4; bit i of the word at `at` is that of code i."""
    return _bits(blocks[:, at : at + 4], range(8), 1).transpose(1, 2).flatten(1) << 4


def _q4_0(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return _halves(blocks[:, 2:]).to(torch.int8) - 8, _half(blocks, 0), None


def _q4_1(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return _halves(blocks[:, 4:]).to(torch.int8), _half(blocks, 0), _half(blocks, 2)


def _q5_0(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    found = _halves(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return found.to(torch.int8) - 16, _half(blocks, 0), None


def _q5_1(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    found = _halves(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return found.to(torch.int8), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return blocks[:, 2:].contiguous().view(torch.int8), _half(blocks, 0), None


def _scales_of_six_bits(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and minima: four of each whole, the others from low bits and the spare high ones of the first."""
    first, second, low = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = torch.cat([first & 63, (low & 15) | (first >> 2 & 48)], 1)
    minimum = torch.cat([second & 63, (low >> 4) | (second >> 2 & 48)], 1)
    return _half(blocks, 0) * scale.float(), -(_half(blocks, 2) * minimum.float())


def _q4_k(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    found = _halves(blocks[:, 16:].unflatten(1, (4, 32))).flatten(1)
    return found.to(torch.int8), *_scales_of_six_bits(blocks)


def _q5_k(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    low = _halves(blocks[:, 48:].unflatten(1, (4, 32))).flatten(1)
    fifth = _bits(blocks[:, 16:48], range(8), 1).flatten(1) << 4
    return (low | fifth).to(torch.int8), *_scales_of_six_bits(blocks)


def _q6_k(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    low = _halves(blocks[:, :128].unflatten(1, (2, 64))).flatten(1)
    high = _bits(blocks[:, 128:192].unflatten(1, (2, 32)), range(0, 8, 2), 3).flatten(1) << 4
    scale = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (low | high).to(torch.int8) - 32, scale, None


def _iq4_nl(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    return _steps(_halves(blocks[:, 2:])), _half(blocks, 0), None


def _iq4_xs(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    low = _bits(blocks[:, 4:8], range(0, 8, 4), 15).transpose(1, 2).flatten(1)
    high = _bits(blocks[:, 2:4], range(0, 8, 2), 3).transpose(1, 2).flatten(1) << 4
    scale = _half(blocks, 0) * ((low | high).to(torch.int8) - 32).float()
    return _steps(_halves(blocks[:, 8:].unflatten(1, (8, 16))).flatten(1)), scale, None


def _steps(found: Tensor) -> Tensor:
    return torch.tensor(_STEPS, dtype=torch.int8)[found.long()]


_CODES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
