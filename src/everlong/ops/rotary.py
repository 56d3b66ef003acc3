"""Turning vectors that a model has rotated already: RoPE by a difference of positions.

Rotations add up, so a query that the model rotated to position a becomes the query at position b by one more
rotation of b - a. Only differences are ever applied, once, to a fresh query; no stored key is turned.

Source: RoFormer, arXiv 2104.09864, eq. 34.

Letters: B batch, H heads, T tokens, D head dim, P pairs of dims that rotate together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from everlong.ops.native import extension

_TAKEN = (torch.float32, torch.bfloat16)
"""Types of vectors that the extension turns."""


@dataclass(frozen=True, eq=False)
class Rotation:
    """How one layer rotates: which dims, in which pairs, how fast.

    `freqs` [P] are radians per position in float64; the pairs occupy the dims `start` .. `start + 2 P - 1`, as
    halves (i with i + P) or, if `interleaved`, as neighbours (2 i with 2 i + 1). A negative `start` counts from the
    last dim.
    """

    freqs: Float[Tensor, " P"]
    start: int
    interleaved: bool

    def same(self, other: Rotation | None) -> bool:
        """Whether both turn every vector alike."""
        return (
            other is not None
            and (self.start, self.interleaved) == (other.start, other.interleaved)
            and torch.equal(self.freqs, other.freqs)
        )


@dataclass(frozen=True, eq=False)
class RotaryAngles:
    """Cosines and sines of one turn, [*, 1, T or 1, P] in float32 (float64 for float64 models).

    `matrix` [D, D] is the same turn as one product from the right, where all tokens turn alike.
    """

    cos: Tensor
    sin: Tensor
    matrix: Tensor | None = None


def turn_by(rotation: Rotation, positions: Tensor, like: Tensor) -> RotaryAngles:
    """The turn by `positions` ([T], or [B, T] if rows differ), its angles computed in float64."""
    angles = positions.to(torch.float64)[..., None] * rotation.freqs.to(positions.device)
    dtype = torch.promote_types(like.dtype, torch.float32)
    angles = angles[:, None] if angles.ndim == 3 else angles
    turn = RotaryAngles(*(f(angles).to(like.device, dtype) for f in (torch.cos, torch.sin)))
    if angles.numel() > len(rotation.freqs):
        return turn
    unit = torch.eye(like.shape[-1], dtype=dtype, device=like.device)
    return replace(turn, matrix=turned(unit[None, None], rotation, turn)[0, 0])


def turn_matrices(rotation: Rotation, places: Int[np.ndarray, " n"], like: Tensor) -> Float[Tensor, "n D D"]:
    """The turn by each of `places` as one product from the right, for vectors as `like` [..., D]."""
    angles = torch.from_numpy(places).to(torch.float64)[:, None] * rotation.freqs.to("cpu")
    dtype = torch.promote_types(like.dtype, torch.float32)
    cos = torch.cos(angles)[:, None, None].to(like.device, dtype)
    sin = torch.sin(angles)[:, None, None].to(like.device, dtype)
    unit = torch.eye(like.shape[-1], dtype=dtype, device=like.device).expand(len(places), 1, -1, -1)
    return turned(unit, rotation, RotaryAngles(cos, sin))[:, 0]


def turned(q: Float[Tensor, "B H T D"], rotation: Rotation, turn: RotaryAngles) -> Float[Tensor, "B H T D"]:
    """A new tensor: `q` rotated further, computed in float32 at least and rounded once to q's dtype.

    >>> r = Rotation(torch.ones(1, dtype=torch.float64), start=0, interleaved=False)
    >>> q = torch.tensor([[[[1.0, 0.0]]]])
    >>> [round(x, 3) for x in turned(q, r, turn_by(r, torch.tensor([1]), q)).flatten().tolist()]
    [0.54, 0.841]
    """
    if (found := _by_extension(q, rotation, turn)) is not None:
        return found
    if turn.matrix is not None:
        return (q.to(turn.matrix.dtype) @ turn.matrix).to(q.dtype)
    pairs = turn.cos.shape[-1]
    out = q.to(turn.cos.dtype).clone(memory_format=torch.contiguous_format)
    part = out.narrow(-1, rotation.start % q.shape[-1], 2 * pairs)
    if rotation.interleaved:
        a = part[..., 0::2]
        b = part[..., 1::2]
    else:
        a = part[..., :pairs]
        b = part[..., pairs:]
    new_a = a * turn.cos - b * turn.sin
    b.mul_(turn.cos).add_(a * turn.sin)
    a.copy_(new_a)
    return out.to(q.dtype)


def _by_extension(q: Tensor, rotation: Rotation, turn: RotaryAngles) -> Tensor | None:
    """The same by the extension (native/turn.c); None where it does not take such numbers."""
    turns, pairs = turn.cos.shape[-2:]
    if q.device.type != "cpu" or q.dtype not in _TAKEN or len(q) != 1 or q.stride(3) != 1 or turn.cos.ndim != 2:
        return None
    if turn.cos.dtype != torch.float32 or turn.cos.requires_grad or (q.requires_grad and torch.is_grad_enabled()):
        return None
    native = extension()
    if native is None:
        return None
    _, heads, tokens, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype)
    native.turn(
        out.data_ptr(),
        q.data_ptr(),
        turn.cos.data_ptr(),
        turn.sin.data_ptr(),
        heads,
        tokens,
        dim,
        rotation.start % dim,
        pairs,
        turns,
        q.stride(1),
        q.stride(2),
        rotation.interleaved,
        q.dtype == torch.bfloat16,
    )
    return out
