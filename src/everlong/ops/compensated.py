"""Weights rounded to 4 bits one input after the other, each one's error made up for by the inputs that follow.

GPTQ (arXiv 2210.17323, algorithm 1): of a layer's outputs over some text, the squared error that rounding one input's
weights makes is least when the weights of later inputs are moved by what U, the upper Cholesky factor of the inverse of
H = X^T X, says. H is taken in blocks of neighbouring inputs (no more than 1,024 at once), which bounds time and memory.
A group's scale and minimum are found by least squares when its first input is reached, from weights that have been
moved already.

O outputs, I inputs, N blocks of B inputs, L = 32 inputs of a group, T tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from everlong.ops.packed import GROUP, pack
from everlong.ops.quantise import fitted

BLOCK = 1024
DAMPED = 0.01
"""This share of the mean of H's diagonal is added to it, so that its inverse is well-behaved."""


def is_grouped(inputs: int) -> bool:
    """Whether so many inputs are whole groups, which is what can be rounded so."""
    return inputs % GROUP == 0


def moments(x: Float[Tensor, "T I"]) -> Float[Tensor, "N B B"]:
    """X^T X of each block of inputs; the last block is filled up with zeros."""
    x_NTB = _blocks(x.float()).transpose(0, 1)
    return torch.bmm(x_NTB.transpose(1, 2), x_NTB)


def _blocks(x: Float[Tensor, "T I"]) -> Float[Tensor, "T N B"]:
    """Inputs in blocks of whole groups that are alike in size."""
    inputs = x.shape[1]
    count = -(-inputs // BLOCK)
    block = -(-inputs // (count * GROUP)) * GROUP
    return F.pad(x, (0, count * block - inputs)).unflatten(1, (count, block))


def quantise_compensated(weight: Float[Tensor, "O I"], h_NBB: Float[Tensor, "N B B"]) -> UInt8[Tensor, "panels bytes"]:
    """The weights in panels of 4 bits, rounded for inputs whose moments are `h_NBB`."""
    u_NBB = _factors(h_NBB)
    w_NOB = _blocks(weight.to(torch.float32, copy=True)).transpose(0, 1)
    codes, scales, minima = [], [], []
    for first in range(0, w_NOB.shape[2], GROUP):
        end = first + GROUP
        code, scale, minimum, error = _group(w_NOB[:, :, first:end], u_NBB[:, first:end, first:end])
        w_NOB[:, :, end:] -= torch.bmm(error, u_NBB[:, first:end, end:])
        codes.append(code)
        scales.append(scale)
        minima.append(minimum)
    # [N, O, B / 32, ...] -> [O, all groups, ...]
    groups = weight.shape[1] // GROUP
    parts = (torch.stack(x, 2).transpose(0, 1).flatten(1, 2)[:, :groups] for x in (codes, scales, minima))
    return pack(*parts)


def _factors(h_NBB: Tensor) -> Float[Tensor, "N B B"]:
    """U, with H^-1 = U^T U."""
    damping = DAMPED * torch.diagonal(h_NBB, dim1=1, dim2=2).mean(1).clamp_min(1e-8)
    damped = h_NBB + damping[:, None, None] * torch.eye(h_NBB.shape[1])
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def _group(w_NOL: Tensor, u_NLL: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, scale and minimum of a group of inputs, and the errors that later inputs are to make up for."""
    scale, minimum = (x.view(w_NOL.shape[:2]).half() for x in fitted(w_NOL.flatten(0, 1)[:, None]))
    step = scale.float()
    low = minimum.float()
    divisor = torch.where(step == 0, 1.0, step)
    w_NOL = w_NOL.clone()
    code = torch.empty(w_NOL.shape, dtype=torch.uint8)
    error = torch.empty_like(w_NOL)
    for n in range(GROUP):
        nearest = ((w_NOL[:, :, n] - low) / divisor).round_().clamp_(0, 15)
        code[:, :, n] = nearest.to(torch.uint8)
        error[:, :, n] = (w_NOL[:, :, n] - torch.addcmul(low, nearest, step)) / u_NLL[:, n, n, None]
        w_NOL[:, :, n + 1 :] -= error[:, :, n, None] * u_NLL[:, n, None, n + 1 :]
    return code, scale, minimum, error
