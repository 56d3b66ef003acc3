"""Weights of 4 and 8 bits in groups of 32 inputs, and products with them.

A group of 32 inputs of one output shares a float16 scale: `weight = scale * code`, codes -127..127, in 8 bits ("q8"),
`weight = scale * code + minimum`, codes 0..15 and a float16 minimum, in 4 bits ("q4"). Packed, 16 outputs lie beside
each other in a panel, in the order in which native/linear.c reads them, and panels are the rows of one tensor of bytes.
Scales are bytes too, so that casting a model does not touch them.

O outputs, I inputs, G groups of a row, P panels, T rows of x.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.ops.native import extension

Format = Literal["q4", "q8"]
GROUP = 32
PANEL = 16
FORMATS = {"q4": 0, "q8": 1, "bfloat16": 2, "float32": 3}
_NATIVE_DTYPES = (torch.bfloat16, torch.float32)
_FEW_ROWS = {"scalar": (2, 2), "avx2": (24, 24), "avx512": (32, 32), "vnni": (48, 2**31)}
"""Up to so many rows, of bfloat16 and of float32, a kernel reads packed weights; beyond, unpacking them for torch's
matrix product is faster."""
_TILE_BYTES = 2**23
_ALIGNED = 64
"""A panel is a whole number of so many bytes."""


def pack(codes: Tensor, scale: Float[Tensor, "O G"], minimum: Float[Tensor, "O G"] | None) -> UInt8[Tensor, "P B"]:
    """Codes [O, G, 32] (0..15 with a minimum, else -127..127) in panels."""
    count = -codes.shape[0] % PANEL
    codes, scale = F.pad(codes, (0, 0, 0, 0, 0, count)), F.pad(scale, (0, 0, 0, count))
    panels, groups = codes.shape[0] // PANEL, codes.shape[1]
    if minimum is None:
        shifted = (codes.to(torch.int16) + 128).to(torch.uint8)
        chunks = shifted.view(panels, PANEL, groups, GROUP // 4, 4)
    else:
        halves = codes.view(panels, PANEL, groups, GROUP // 8, 2, 4)
        chunks = halves[..., 0, :] | (halves[..., 1, :] << 4)
    parts = [chunks.permute(0, 2, 3, 1, 4).reshape(panels, -1), _panels(scale, panels)]
    if minimum is not None:
        parts.append(_panels(F.pad(minimum, (0, 0, 0, count)), panels))
    packed = torch.cat(parts, 1)
    return F.pad(packed, (0, -packed.shape[1] % _ALIGNED)).contiguous()


def panels_for(outputs: int, inputs: int, form: Format) -> UInt8[Tensor, "P B"]:
    """Memory for packed weights of this shape; what is in it is left open."""
    groups = -(-inputs // GROUP)
    size = groups * PANEL * (GROUP // 2 + 4 if form == "q4" else GROUP + 2)
    return torch.empty(-(-outputs // PANEL), -(-size // _ALIGNED) * _ALIGNED, dtype=torch.uint8)


def unpack(
    packed: UInt8[Tensor, "P B"], form: Format, outputs: int, inputs: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "O I"]:
    """The weights that `packed` stands for."""
    codes, scale, minimum = _parts(packed, form, -(-inputs // GROUP))
    w_OGL = codes.float()
    if minimum is None:
        w_OGL = w_OGL.sub_(128).mul_(scale[..., None])
    else:
        w_OGL = torch.addcmul(minimum[..., None], w_OGL, scale[..., None])
    return w_OGL.flatten(1)[:outputs, :inputs].to(dtype)


def linear(
    x: Float[Tensor, "*B I"], packed: UInt8[Tensor, "P B"], form: Format, outputs: int, bias: Tensor | None = None
) -> Float[Tensor, "*B O"]:
    """`x` times the packed weights, plus `bias`; weights have no gradient, `x` and `bias` do.

    In a graph (torch.export, torch.compile) this is one operator, `everlong::packed_linear`, which has none.
    """
    if torch.compiler.is_compiling():
        return _operator(x, packed, form, outputs, bias)
    if (native := _native_for(x, bias)) is not None:
        few = x.numel() <= x.shape[-1] * _FEW_ROWS[native.level()][x.dtype == torch.float32]
        by = _native if few else _by_tiles
        return by(native, x, packed, form, outputs, bias)
    if x.dtype == torch.float16 and x.device.type == "cpu":
        return linear(x.float(), packed, form, outputs, None if bias is None else bias.float()).half()
    if torch.is_grad_enabled() and x.requires_grad:
        return F.linear(x, unpack(packed, form, outputs, x.shape[-1], x.dtype), bias)
    return _by_tiles(None, x, packed, form, outputs, bias)


_SCHEMA = "(Tensor x, Tensor packed, str form, int outputs, Tensor? bias) -> Tensor"


@torch.library.custom_op("everlong::packed_linear", mutates_args=(), schema=_SCHEMA)
def _operator(x: Tensor, packed: Tensor, form: str, outputs: int, bias: Tensor | None) -> Tensor:
    return linear(x, packed, cast("Format", form), outputs, bias)


@_operator.register_fake
def _(x: Tensor, packed: Tensor, form: str, outputs: int, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], outputs)


def as_int4pack(packed: UInt8[Tensor, "P B"], inputs: int) -> tuple[Tensor, Tensor]:
    """The weights in the order of torch's own product for 4 bits, and its scales and zeros in bfloat16."""
    codes, scale, minimum = _parts(packed, "q4", -(-inputs // GROUP))
    assert minimum is not None
    zeros = torch.stack([scale, minimum + 8 * scale], -1).transpose(0, 1).contiguous().bfloat16()
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.flatten(1).int(), 1), zeros


def int4pack_linear(
    x: Float[Tensor, "*B I"], weight: Tensor, zeros: Tensor, outputs: int, bias: Tensor | None
) -> Float[Tensor, "*B O"]:
    """`x` in bfloat16 times what `as_int4pack` gave; scales are rounded to bfloat16."""
    rows = F.pad(x, (0, len(zeros) * GROUP - x.shape[-1])).flatten(0, -2)
    out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, weight, GROUP, zeros)
    out = out[:, :outputs].view(*x.shape[:-1], outputs)
    return out if bias is None else out + bias


def plain_linear(x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"], bias: Tensor | None = None) -> Tensor:
    """The same with plain weights, bfloat16 or float32, by the extension; meant for few rows."""
    native = _native_for(x, bias)
    if native is None or not weight.is_contiguous():
        return F.linear(x, weight, bias)
    return _native(native, x, weight, str(weight.dtype).removeprefix("torch."), len(weight), bias)


def _native_for(x: Tensor, bias: Tensor | None) -> Any | None:
    """The extension if it takes this product: on the CPU, bfloat16 or float32, without gradients."""
    if x.device.type != "cpu" or x.dtype not in _NATIVE_DTYPES or (bias is not None and bias.dtype != x.dtype):
        return None
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return None
    return extension()


def _native(native: Any, x: Tensor, weight: Tensor, form: str, outputs: int, bias: Tensor | None) -> Tensor:
    x = x.contiguous()
    inputs = x.shape[-1]
    out = x.new_empty(*x.shape[:-1], outputs)
    native.linear(
        out.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        x.numel() // inputs,
        outputs,
        inputs,
        FORMATS[form],
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def _by_tiles(native: Any | None, x: Tensor, packed: Tensor, form: Format, outputs: int, bias: Tensor | None) -> Tensor:
    """Panels are unpacked a few at a time, so that the whole matrix is never there."""
    step = max(1, _TILE_BYTES // (PANEL * x.shape[-1] * x.element_size()))
    out = x.new_empty(*x.shape[:-1], outputs)
    for at in range(0, len(packed), step):
        tile = _transposed(native, packed[at : at + step], form, x)
        first = at * PANEL
        count = min(outputs - first, tile.shape[1])
        out[..., first : first + count] = torch.matmul(x, tile)[..., :count]
    return out if bias is None else out + bias


def _transposed(native: Any | None, packed: Tensor, form: Format, x: Tensor) -> Tensor:
    """Weights [I, 16 P] of panels, for products with `x`."""
    panels, inputs = len(packed), x.shape[-1]
    if native is None:
        return unpack(packed, form, panels * PANEL, inputs, x.dtype).t()
    tile = x.new_empty(inputs, panels * PANEL)
    half = x.dtype == torch.bfloat16
    address = tile.data_ptr(), packed.data_ptr()
    native.unpack(*address, panels, inputs, FORMATS[form], half, torch.get_num_threads())
    return tile


def _parts(packed: Tensor, form: Format, groups: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes [O, G, 32] as they are written, scales and minima [O, G] in float32; O a multiple of 16."""
    size = groups * PANEL * GROUP // (2 if form == "q4" else 1)
    end = size + groups * PANEL * 2
    chunks = packed[:, :size].view(len(packed), groups, -1, PANEL, 4).permute(0, 3, 1, 2, 4)
    scale = _outputs(packed[:, size:end], groups)
    if form == "q8":
        return chunks.reshape(-1, groups, GROUP), scale, None
    codes = torch.stack([chunks & 15, chunks >> 4], -2).reshape(-1, groups, GROUP)
    return codes, scale, _outputs(packed[:, end : end + groups * PANEL * 2], groups)


def _panels(scale: Tensor, panels: int) -> Tensor:
    """float16 [O, G] as bytes [P, G, 16]."""
    ordered = scale.half().view(panels, PANEL, -1).transpose(1, 2).contiguous()
    return ordered.view(torch.uint8).reshape(panels, -1)


def _outputs(found: Tensor, groups: int) -> Tensor:
    """Bytes [P, G, 16] as float32 [O, G]."""
    halves = found.contiguous().view(torch.float16).view(len(found), groups, PANEL)
    return halves.transpose(1, 2).reshape(-1, groups).float()
