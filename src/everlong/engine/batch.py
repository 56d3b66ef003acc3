"""Pieces of several streams read in one forward, packed into one row."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate

import torch
from torch import Tensor

from everlong.cache.packed import PackedCache
from everlong.engine.runner import CacheRunner
from everlong.engine.stream import StreamPiece
from everlong.hooks.packed_check import unpackable


def read(pieces: Sequence[StreamPiece]) -> None:
    """Let each stream read its piece: in one forward where the model allows it, else one after the other.

    The streams must be different ones, of one model. What fails leaves each stream with its piece wholly read or not
    at all: none has read it where the forward fails, and some may have where a commit behind it does.
    """
    runners = [piece.stream.runner for piece in pieces]
    packed = [runner for runner in runners if isinstance(runner, CacheRunner)]
    if len(pieces) > 1 and len(packed) == len(pieces) and unpackable(packed[0].model) is None:
        _read_packed(pieces, packed)
        return
    for piece, runner in zip(pieces, runners, strict=True):
        with piece:
            piece.took(runner.read(piece.ids, piece.every, piece.answering))


def _read_packed(pieces: Sequence[StreamPiece], runners: Sequence[CacheRunner]) -> None:
    with ExitStack() as stack:
        for piece in pieces:
            stack.enter_context(piece)
        streams = [r.answering(piece.answering) for r, piece in zip(runners, pieces, strict=True)]
        cache = PackedCache(streams, [len(piece.ids) for piece in pieces])
        wanted = _wanted(pieces)
        ids = torch.cat([piece.ids for piece in pieces])
        logits = runners[0].forward.at(ids[None], torch.cat(wanted), past_key_values=cache, use_cache=True)
        for piece, rows in zip(pieces, logits.split([len(w) for w in wanted]), strict=True):
            piece.took(rows)


def _wanted(pieces: Sequence[StreamPiece]) -> list[Tensor]:
    """The places in the row whose logits each piece wants."""
    ends = accumulate(len(piece.ids) for piece in pieces)
    return [torch.arange(end - (len(p.ids) if p.every else 1), end) for p, end in zip(pieces, ends, strict=True)]
