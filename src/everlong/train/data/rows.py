"""Samples put together from pieces: filler with needles in it, and the weights of what the memory takes in."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from everlong.train.data.encoding import OTHER, EncodedPiece, Span
from everlong.train.data.sample import Example


@dataclass(frozen=True, eq=False)
class Filler:
    """Dull tokens [F], and the places between them [P], rising, at which a needle may stand."""

    ids: Int64[np.ndarray, " F"]
    places: Int64[np.ndarray, " P"]

    def near(self, wanted: int | float, least: int = 0) -> int:
        """The place nearest to the wanted one, of those from `least` on (the end at the latest)."""
        allowed = self.places[self.places >= least]
        return int(allowed[np.abs(allowed - wanted).argmin()]) if len(allowed) else len(self.ids)

    def around(self, needles: Sequence[tuple[int, EncodedPiece]]) -> list[EncodedPiece]:
        """The filler in pieces, with needles at their places; equal places keep their order."""
        out = list[EncodedPiece]()
        at = 0
        for place, needle in sorted(needles, key=lambda pair: pair[0]):
            out += [self._part(at, place), needle]
            at = place
        return [*out, self._part(at, len(self.ids))]

    def _part(self, start: int, end: int) -> EncodedPiece:
        return EncodedPiece(self.ids[start:end], np.full(end - start, OTHER, np.float32), filler=True)


def row(
    pieces: Sequence[EncodedPiece],
    segment: int,
    repeat: float,
    language: float,
    rng: random.Random,
    answers: Sequence[Span],
) -> Example:
    """The pieces as a sample of one document, the last of them one for each of the `answers`.

    These count from their piece's first token. Tokens with the weight OTHER weigh `language` times as much as the
    answers, all of them together.
    """
    ids, loss = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("ids", "loss_weight"))
    loss[0] = 0
    other = loss == OTHER
    loss[other] = language * sum(b - a for a, b in answers) / max(1, other.sum())
    write = repeats([(len(piece), piece.filler) for piece in pieces], segment, repeat, rng)
    starts = [len(ids) - sum(map(len, pieces[n:])) for n in range(len(pieces) - len(answers), len(pieces))]
    asked = tuple((start + a, start + b) for start, (a, b) in zip(starts, answers, strict=True))
    return Example(ids, loss, write, np.zeros(len(ids), np.int64), asked)


def repeats(
    lengths: Sequence[tuple[int, bool]], segment: int, most: float, rng: random.Random
) -> Float32[np.ndarray, " T"]:
    """The write weights of pieces given as (tokens, whether filler), in segments of `segment` tokens.

    Segments that are all filler get one weight, log-uniform in 1..most: each stands for so many of itself, and the row
    for one whose length is log-uniform too. Every other segment has weight 1.
    """
    dull = np.concatenate([np.full(tokens, filler) for tokens, filler in lengths])
    write = np.ones(len(dull), np.float32)
    weight = most ** rng.random()
    for start in range(0, len(dull), segment):
        if dull[start : start + segment].all():
            write[start : start + segment] = weight
    return write
