"""Blocks of GGUF files as packed weights, code by code: nothing is rounded but scales to float16.

R rows, W bytes of a row, P panels, B bytes of a panel.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor

from everlong.ops.gguf_blocks import KINDS, Codes, codes
from everlong.ops.native import extension
from everlong.ops.packed import FORMATS, GROUP, PANEL, Format, pack, panels_for

Q4_KINDS = (2, 3, 12)
"""Q4_0, Q4_1 and Q4_K: the kinds whose codes are those of 4 bits."""
_Q4_0 = 2
_Q8_KINDS = (2, 6, 8, 20, 23)
"""Q4_0, Q5_0, Q8_0, IQ4_NL, IQ4_XS: the kinds whose codes 8 bits hold, without minima."""
_HELD = 0.02
"""How far, in steps, rounding a scale and minimum to float16 may move a weight."""
_STRAYS = 1e-3
"""The share of groups in which it may move one farther."""
_TILE = 2**22


def from_blocks(rows: UInt8[Tensor, "R W"], kind: int, form: Format) -> UInt8[Tensor, "P B"] | None:
    """The rows in panels of this form; None where it does not hold what they hold."""
    if kind not in (Q4_KINDS if form == "q4" else _Q8_KINDS):
        return None
    of = KINDS[kind]
    inputs = rows.shape[1] // of.bytes * of.weights
    most = _STRAYS * len(rows) * inputs / GROUP
    if (native := extension()) is not None:
        out = panels_for(len(rows), inputs, form)
        rows = rows.contiguous()
        strays = native.pack_blocks(out.data_ptr(), rows.data_ptr(), len(rows), inputs, kind, FORMATS[form])
        return out if 0 <= strays <= most else None
    step = max(1, _TILE // (PANEL * inputs)) * PANEL
    panels, strays = [], 0
    for at in range(0, len(rows), step):
        found = _as_form(codes(rows[at : at + step], kind), kind, form)
        if found is None:
            return None
        strays += _strays(found)
        grouped = found.codes.unflatten(1, (-1, GROUP))
        half = None if found.minimum is None else found.minimum.half()
        panels.append(pack(grouped.view(torch.uint8) if form == "q4" else grouped, found.scale.half(), half))
    if strays > most:
        return None
    return torch.cat(panels)


def _as_form(found: Codes, kind: int, form: Format) -> Codes | None:
    """Codes from 0 to 15 with minima for 4 bits, from -127 to 127 without for 8; None for a code of -128."""
    if form == "q4":
        if kind != _Q4_0:
            return found
        return Codes(found.codes + 8, found.scale, -8 * found.scale)
    return found if kind != 8 or bool((found.codes != -128).all()) else None


def _strays(found: Codes) -> int:
    """Groups in which rounding to float16 moves a weight of 15 steps by more than is held."""
    moved = (found.scale.half().float() - found.scale).abs() * 15
    step = found.scale.abs()
    if found.minimum is not None:
        moved += (found.minimum.half().float() - found.minimum).abs()
        step = torch.where(step == 0, found.minimum.abs() / 15, step)
    return int((~(moved <= _HELD * step)).sum())
