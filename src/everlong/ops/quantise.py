"""Weights rounded to 4 or 8 bits in groups of 32, as ops/packed.py holds them.

O outputs, I inputs, G groups of a row, L = 32 weights of a group, P panels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.ops.native import extension
from everlong.ops.packed import GROUP, Format, pack, panels_for

_CODES = 15
_FITS = 4
_FEWEST = 7
"""The fewest steps between a group's lowest and highest weight that are tried."""
_HELD = 0.02
"""How far, in steps, a weight may be from what it was and yet count as held: the rounding of scales to float16."""
_STRAYS = 1e-3
"""The share of groups that need not be held for a matrix to be."""
_TRIED = 512
"""Groups that are tried first: most matrices that are not held are known by them."""


def quantise(weight: Float[Tensor, "O I"], form: Format) -> UInt8[Tensor, "P B"]:
    """The weights in panels, each group rounded to a scale (and minimum) of its own.

    In 4 bits they begin as the group's range gives them and are fitted to the weights by least squares, codes and scale
    in turn. In 8 bits, groups of 8 or 16 steps to either side of zero, as files of 4 and 5 bits have, are held as they
    are.
    """
    native = extension()
    if form == "q8" and native is not None and weight.device.type == "cpu":
        full = weight.float().contiguous()
        out = panels_for(full.shape[0], full.shape[1], form)
        native.pack_eight_bits(out.data_ptr(), full.data_ptr(), *full.shape)
        return out
    w_OGL = _grouped(weight)
    if form == "q8":
        scale = _scale_of_eight_bits(w_OGL)
        return pack(_codes(w_OGL, scale, None), scale, None)
    scale, minimum = _fitted(w_OGL)
    return pack(_codes(w_OGL, scale, minimum), scale, minimum)


def _fitted(w_OGL: Tensor) -> tuple[Float[Tensor, "O G"], Float[Tensor, "O G"]]:
    """Scale and minimum of each group in 4 bits, in float16: of those tried the ones with the least squared error."""
    low, high = w_OGL.amin(-1), w_OGL.amax(-1)
    minimum = low.half()
    scale = ((high - minimum.float()) / _CODES).half()
    best = scale, minimum
    least = torch.full_like(low, torch.inf)
    for _ in range(_FITS):
        code = _codes(w_OGL, scale, minimum).float()
        error = torch.addcmul(minimum.float()[..., None], code, scale.float()[..., None]).sub_(w_OGL).square_().sum(-1)
        better = error < least
        least = torch.minimum(error, least)
        best = torch.where(better, scale, best[0]), torch.where(better, minimum, best[1])
        scale, minimum = _least_squares(w_OGL, code)
    return best


def _least_squares(w_OGL: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and minimum that are nearest to each group's weights, for these codes."""
    mean = code.mean(-1, keepdim=True)
    off = code - mean
    scale = (off * w_OGL).sum(-1) / off.square().sum(-1).clamp_min(1e-6)
    minimum = w_OGL.mean(-1) - scale * mean[..., 0]
    return scale.half(), minimum.half()


def _scale_of_eight_bits(w_OGL: Tensor) -> Float[Tensor, "O G"]:
    """The scale of each group in float16: its largest magnitude by 127, or by fewer steps if that is nearer."""
    largest = w_OGL.abs().amax(-1)
    best = (largest / 127).half()
    error = _distance(w_OGL, best)
    for steps in (8, 16):
        scale = (largest / steps).half()
        found = _distance(w_OGL, scale)
        best = torch.where(found < error, scale, best)
        error = torch.minimum(found, error)
    return best


def _distance(w_OGL: Tensor, scale: Tensor) -> Float[Tensor, "O G"]:
    """How far the farthest weight of each group is from what its nearest code stands for."""
    wide = scale.float()[..., None]
    return (torch.round(w_OGL / _divisor(scale)).clamp_(-127, 127).mul_(wide) - w_OGL).abs_().amax(-1)


def held_in_four_bits(weight: Float[Tensor, "O I"]) -> UInt8[Tensor, "P B"] | None:
    """The weights in panels of 4 bits if these hold them as they are, which weights do that were in 4 bits before.

    Where a group's ends are not at codes 0 and 15, its weights are few steps apart, and any number of steps down to 7
    is tried; of those that fit, the minimum that float16 holds best is taken. None for weights that are held so in
    fewer than 999 of 1,000 groups.
    """
    groups = _grouped(weight)
    w_NL = groups.flatten(0, 1)
    if not _is_held(_fit(w_NL[:: max(1, len(w_NL) // _TRIED)])[2]):
        return None
    scale, minimum, error = _fit(w_NL)
    if not _is_held(error):
        return None
    scale, minimum = scale.view(groups.shape[:2]), minimum.view(groups.shape[:2])
    return pack(_codes(groups, scale, minimum), scale, minimum)


def _is_held(error: Tensor) -> bool:
    return (error > _HELD).float().mean().item() <= _STRAYS


def _fit(w_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, minimum and error of each group in 4 bits."""
    low, high = w_NL.amin(-1), w_NL.amax(-1)
    minimum = low.half()
    scale = ((high - low) / _CODES).half()
    error = _error(w_NL, scale, minimum)
    for steps in range(_CODES - 1, _FEWEST - 1, -1):
        left = (error > _HELD).nonzero()[:, 0]
        if len(left) == 0:
            break
        for below in range(_CODES - steps + 1):
            step = (high[left] - low[left]) / steps
            tried = step.half(), (low[left] - below * step).half()
            found = _error(w_NL[left], *tried)
            better = found < error[left]
            at = left[better]
            scale[at], minimum[at], error[at] = tried[0][better], tried[1][better], found[better]
    return scale, minimum, error


def _error(w_NL: Tensor, scale: Tensor, minimum: Tensor) -> Float[Tensor, " N"]:
    """How far the farthest weight of each group is from the nearest code, in steps."""
    code = (w_NL - minimum.float()[:, None]) / _divisor(scale)
    nearest = code.round().clamp_(0, _CODES)
    return (code - nearest).abs().amax(-1)


def _codes(w_OGL: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """The nearest codes: 0..15 with a minimum, else -127..127."""
    if minimum is None:
        return torch.round(w_OGL / _divisor(scale)).clamp_(-127, 127).to(torch.int8)
    return torch.round((w_OGL - minimum.float()[..., None]) / _divisor(scale)).clamp_(0, _CODES).to(torch.uint8)


def _grouped(weight: Tensor) -> Float[Tensor, "O G L"]:
    """In float32 [O, G, 32]; a last group that is not full repeats its last input, which changes no range."""
    short = -weight.shape[1] % GROUP
    wide = torch.cat([weight.float(), weight[:, -1:].float().expand(-1, short)], 1)
    return wide.view(len(weight), -1, GROUP)


def _divisor(scale: Tensor) -> Tensor:
    """The scale to divide by: groups whose scale is 0 have codes of 0."""
    wide = scale.float()
    return torch.where(wide == 0, 1.0, wide)[..., None]
