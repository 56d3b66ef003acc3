"""Frames, in which the positions that a model is given stay small, and ranges of columns that queries turn to meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from everlong.cache.window import WindowLayout
from everlong.errors import CapabilityError
from everlong.models.layout import ModelLayout
from everlong.ops.rotary import RotaryAngles, Rotation, turn_by, turned
from everlong.ops.spans import Ints, KeyIntervals


@dataclass(frozen=True)
class Frame:
    """Tokens from index `start` on were rotated at place - `base`."""

    start: int
    base: int


@dataclass(eq=False)
class KeyRange:
    """Columns `start` .. `end - 1` of a lane's arenas, who sees them, and by how much their query is turned."""

    start: int
    end: int
    span: KeyIntervals
    turn: Ints | None
    _turns: dict[tuple[int, torch.device], RotaryAngles] = field(default_factory=dict)

    def turned(self, q: Tensor, rotation: Rotation | None, skip: int) -> Tensor:
        """The query for these columns; `skip` queries at the front of the step are missing from `q`."""
        turn = self.angles(rotation, q)
        if turn is None or rotation is None:
            return q
        if skip and turn.matrix is None:
            turn = RotaryAngles(turn.cos[..., skip:, :], turn.sin[..., skip:, :])
        return turned(q, rotation, turn)

    def angles(self, rotation: Rotation | None, like: Tensor) -> RotaryAngles | None:
        """The turn of the queries, which are as `like`; None for none."""
        if self.turn is None or rotation is None:
            return None
        key = id(rotation), like.device
        if key not in self._turns:
            self._turns[key] = turn_by(rotation, torch.from_numpy(self.turn), like)
        return self._turns[key]


def frames_of_step(
    plan: ModelLayout,
    method: str,
    lanes: Iterable[WindowLayout],
    frames: Sequence[Frame],
    span: tuple[int, int, int],
) -> list[Frame]:
    """The frames of a stream with that of its next step, a new one where positions would pass the limit.

    `span`: how many tokens were read, the place of the next one, and the place past the last one of the step.
    """
    seen, first, end = span
    base = frames[-1].base
    hard = plan.hard_length
    places = max(min(end, lane.sinks + min(lane.window, lane.kept)) for lane in lanes)
    if hard is not None and max(end - first, places) > hard:
        raise CapabilityError(
            f"{method}: {end} tokens need positions past {hard}, where this model computes other angles; read in "
            "shorter chunks, or use a method whose sinks and window are shorter than that together"
        )
    if plan.alibi or first == base or end - base <= plan.frame_length:
        return list(frames)
    return [*frames, Frame(seen, first)]
