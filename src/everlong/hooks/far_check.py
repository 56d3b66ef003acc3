"""Whether a model does more with a position than rotate, near it and far above every length that its config names.

Queries are compared as well as keys. What else queries depend on is a scale of a known form, which a step then takes
from a token's place in the cache, or the model is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from everlong.errors import RotationError
from everlong.hooks.listen import Heard, listen
from everlong.hooks.routes import AttentionHook
from everlong.models.internals import text_config
from everlong.models.layout import LayerPlan, ModelLayout, Temperature
from everlong.ops.rotary import Rotation, turn_by, turned
from everlong.ops.spans import Ints

Floats = NDArray[np.float64]

FAR = 4
LARGEST = 1 << 23
"""Far is this many times the largest number of the config, and the largest position that is tried."""

CORNER = (0, 3, 5)
"""Time, height and width of a token in an image."""

ROUNDING = 1.2e-7
"""Radians, per position, by which an angle in float32 may be off."""


def prove(
    model: PreTrainedModel, route: AttentionHook, plan: ModelLayout, near: Heard, tolerance: float
) -> ModelLayout:
    """The plan with the scales of its queries; RotationError where positions do what a step cannot repeat."""
    numbers = sorted(set(_numbers(text_config(model).to_dict())))
    lengths = [int(n) for n in numbers if n == int(n) and 2 <= n <= LARGEST // FAR]
    limit = LARGEST if plan.hard_length is None else min(plan.hard_length, LARGEST)
    positions = _below(limit, [*near.positions.tolist(), *lengths, FAR * max(lengths, default=0)])
    heard = listen(model, route, positions, past=int(positions[-1]))
    for layer in plan.layers:
        _check(model, layer, near, heard, tolerance)
    scaled = [i for i in heard.queries if _moves(_scale(i, near, heard), tolerance)]
    if not scaled:
        return plan
    steps = _below(limit, [k * n + d for n in lengths for k, d in ((1, -1), (1, 0), (2, -1), (2, 0), (3, 1))])
    by_position = listen(model, route, steps)
    by_index = [listen(model, route, np.zeros(1, np.int64), past=int(n)) for n in steps]
    layers = list(plan.layers)
    for i in scaled:
        scales = {
            False: _scale(i, near, by_position),
            True: np.concatenate([_scale(i, near, one) for one in by_index]),
        }
        layers[i] = replace(layers[i], temperature=_explain(model, i, steps, scales, numbers, tolerance))
    return replace(plan, layers=tuple(layers))


def moves_axes_together(
    model: PreTrainedModel, route: AttentionHook, plan: ModelLayout, positions: Ints, tolerance: float
) -> bool:
    """Whether the model takes positions on three axes, and the same added to all of them turns as it does in text.

    A token stands somewhere in an image that begins at each of `positions`.
    """
    try:
        heard = listen(model, route, positions, corner=CORNER)
    except Exception:  # noqa: BLE001 a model that takes no such positions may fail in any way
        return False
    rotating = [layer for layer in plan.layers if layer.rotation is not None]
    handed = [(heard.queries[layer.index], layer.rotation) for layer in rotating if layer.index in heard.queries]
    handed += [
        (heard.cached[layer.index][layer.latent], layer.rotation) for layer in rotating if layer.index in heard.cached
    ]
    at_origin = listen(model, route, positions[:1]).cached
    moved = any(not torch.equal(kv[slot][:1], at_origin[i][slot]) for i, kv in heard.cached.items() for slot in (0, 1))
    return moved and all(
        len(x) == len(positions) and bool((distance(x[:1], x, rotation, heard.positions) <= tolerance).all())
        for x, rotation in handed
    )


def _numbers(config: Mapping[Any, Any]) -> Iterator[float]:
    """Every number above 0 in a config, at any depth of its mappings."""
    for value in config.values():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            yield float(value)


def _below(limit: int, positions: list[int]) -> Ints:
    return np.array(sorted({p for p in positions if 0 <= p < limit}), dtype=np.int64)


def _check(model: PreTrainedModel, layer: LayerPlan, near: Heard, heard: Heard, tolerance: float) -> None:
    """RotationError unless all that the layer hands over is what it was at position 0, turned as the plan says."""
    handed: list[tuple[str, Tensor, Rotation | None]] = []
    if layer.index in heard.queries:
        q = heard.queries[layer.index].float().cpu()
        q = q / torch.from_numpy(_scale(layer.index, near, heard)).float()[:, None, None, None]
        handed.append(("queries", q, layer.rotation))
    if layer.index in heard.cached:
        rotations = (None, layer.rotation) if layer.latent else (layer.rotation, None)
        handed += zip(("keys", "values"), heard.cached[layer.index], rotations, strict=True)
    for name, x, rotation in handed:
        # Rows of one forward are compared: another one may round otherwise, and small heads show it.
        error = distance(x[:1], x, rotation, heard.positions)
        wrong = error > tolerance + ROUNDING * heard.positions
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise RotationError(
                f"{type(model).__name__} layer {layer.index}: its {name} at position {int(heard.positions[at])} are "
                f"not those at 0 rotated (off by {float(error[at]):.2g}), so that a token cannot be moved to another "
                "place; use a model that only rotates by position, or transformers without everlong"
            )


def distance(first: Tensor, x: Tensor, rotation: Rotation | None, positions: Tensor) -> Tensor:
    """Relative distance [N] of rows `x` [N, G, 1, D] from `first`, that of position 0, turned to where they stand."""
    x = x.float().cpu()
    expected = first.float().cpu().expand_as(x)
    if rotation is not None:
        expected = turned(expected, rotation, turn_by(rotation, positions[:, None], expected))
    return ((x - expected).norm(dim=-1) / x.norm(dim=-1).clamp_min(1e-30)).flatten(1).amax(1)


def _scale(layer: int, near: Heard, heard: Heard) -> Floats:
    """How much longer the layer's queries are than at position 0."""
    first = near.queries[layer][:1].double().cpu().norm()
    norms: Floats = (heard.queries[layer].double().cpu().flatten(1).norm(dim=1) / first).numpy()
    return norms


def _moves(scale: Floats, tolerance: float) -> bool:
    return bool((np.abs(scale - 1) > tolerance).any())


def _explain(
    model: PreTrainedModel, layer: int, steps: Ints, scales: dict[bool, Floats], numbers: list[float], tolerance: float
) -> Temperature:
    """The scale, its constants among the config's numbers; `scales` by position and (True) by index in the text."""
    moving = [indexed for indexed, scale in scales.items() if _moves(scale, tolerance)]
    known = [
        Temperature(floor, gain, lead, indexed)
        for indexed in moving
        for floor, gain, lead in itertools.product((n for n in numbers if n >= 1), numbers, (0, 1))
    ]
    error = [float(np.abs(t.scale(steps) / scales[t.indexed] - 1).max()) for t in known]
    if len(moving) == 1 and min(error) <= tolerance:
        return known[int(np.argmin(error))]
    most = max(float(s.max()) for s in scales.values())
    raise RotationError(
        f"{type(model).__name__} layer {layer}: its queries grow with the position (up to {most:.3g} times) in a way "
        "that is not known here, so that a token cannot be moved to another place; use another model, or transformers "
        "without everlong"
    )
