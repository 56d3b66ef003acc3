"""Where the tokens of a stream stand: text token behind token, the tokens of an image on three axes from one place on.

A model that gives an image's tokens a time, a height and a width (mrope: Qwen2-VL, arXiv 2409.12191, section 2.1)
rotates some pairs of dims by each. A token's place is the least number that it, or any token behind it, has on any
axis: its own position in text, where the image begins in an image. Frames, windows and memories move tokens by
differences of places, on all axes alike, so that only the model itself ever tells the axes apart.

Letters: P planes (axes), T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from everlong.errors import CapabilityError
from everlong.ops.spans import Ints


@dataclass(frozen=True)
class PlaceRun:
    """Tokens from index `start` on stand at `place`: each one further than the one before (`moves`), or all there."""

    start: int
    place: int
    moves: bool


@dataclass(frozen=True)
class TokenPlaces:
    """The place of every token of a stream, and of the one that would come next."""

    runs: tuple[PlaceRun, ...] = (PlaceRun(0, 0, True),)

    @cached_property
    def is_text(self) -> bool:
        """Whether every token's place is its index."""
        return len(self.runs) == 1

    @cached_property
    def _table(self) -> Ints:
        return np.array([(run.start, run.place, run.moves) for run in self.runs], dtype=np.int64)

    def of(self, indices: Ints) -> Ints:
        """The places of the tokens with these indices.

        >>> places = TokenPlaces().then(3, ImagePlanes(np.array([[3, 3, 3, 3], [3, 3, 4, 4], [3, 4, 3, 4]])))
        >>> places.of(np.arange(9)).tolist()
        [0, 1, 2, 3, 3, 3, 3, 5, 6]
        """
        if self.is_text:
            return indices
        runs = self._table[np.searchsorted(self._table[:, 0], indices, "right") - 1]
        found: Ints = runs[..., 1] + runs[..., 2] * (indices - runs[..., 0])
        return found

    def at(self, index: int) -> int:
        """The place of one token."""
        return index if self.is_text else int(self.of(np.array([index]))[0])

    def between(self, first: int, end: int) -> Ints:
        """The places of the tokens `first` .. `end` - 1."""
        return self.of(np.arange(first, end, dtype=np.int64))

    def then(self, seen: int, planes: ImagePlanes) -> TokenPlaces:
        """The places of a stream that reads these tokens behind `seen` others."""
        places = [*planes.places.tolist(), planes.after]
        runs = list(self.runs)
        first = 0
        while first < len(places):
            moves = first + 1 == len(places) or places[first + 1] != places[first]
            end = first + 1
            while end < len(places) and places[end] - places[end - 1] == moves:
                end += 1
            runs.append(PlaceRun(seen + first, places[first], moves))
            first = end
        return TokenPlaces(tuple(_joined(runs)))

    def cropped(self, target: int) -> TokenPlaces:
        """The places of the first `target` tokens; CapabilityError in the middle of an image."""
        if self.is_text or not target:
            return TokenPlaces()
        if self.at(target) == self.at(target - 1):
            raise CapabilityError(f"crop: token {target} stands in the middle of an image; take the whole image back")
        runs = [run for run in self.runs if run.start < target]
        return TokenPlaces(tuple(_joined([*runs, PlaceRun(target, self.at(target), True)])))

    def state(self) -> list[list[int]]:
        """Ready for JSON."""
        return self._table.tolist()

    @classmethod
    def restored(cls, state: Iterable[Sequence[int]] | None) -> TokenPlaces:
        """As `state` gave it; None for a stream from before there were images."""
        if state is None:
            return cls()
        return cls(tuple(PlaceRun(start, place, bool(moves)) for start, place, moves in state))


def _joined(runs: list[PlaceRun]) -> Iterable[PlaceRun]:
    """The same places in as few runs as they need."""
    kept = runs[0]
    for run in runs[1:]:
        if run.moves == kept.moves and run.place == kept.place + kept.moves * (run.start - kept.start):
            continue
        yield kept
        kept = run
    yield kept


@dataclass(frozen=True, eq=False)
class ImagePlanes:
    """The positions [P, T] of new tokens, images among them, by axis, counted from the stream's beginning."""

    planes: Ints

    @cached_property
    def places(self) -> Ints:
        """The place of each token."""
        least = self.planes.min(0)
        return np.minimum.accumulate(least[::-1])[::-1]

    @cached_property
    def after(self) -> int:
        """The place of the token behind them: behind a text the next position, behind an image past all its axes."""
        last = self.planes[:, -1]
        alike = bool((last == last[0]).all())
        return int(last[0] if alike else self.planes.max()) + 1

    @property
    def end(self) -> int:
        """The position past all of them."""
        return int(self.planes.max()) + 1
