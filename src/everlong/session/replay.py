"""Tokens that were read before a crash, read again in the way in which they were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from everlong.library.journal import SOURCES

if TYPE_CHECKING:
    from torch import Tensor

    from everlong.engine.writing import WritingStream
    from everlong.library.journal import Kind, Run


def replay(stream: WritingStream, runs: Sequence[Run]) -> Iterator[int]:
    """Let a stream read the runs; the tokens it has read after each piece."""
    for kind, ids in runs:
        for piece, answering in _pieces(stream, kind, ids):
            stream.read_piece(piece, answering)
            yield stream.seen_tokens


def _pieces(stream: WritingStream, kind: Kind, ids: Sequence[int]) -> Iterator[tuple[Tensor, bool]]:
    if kind == "prompt":
        return stream.prompt_pieces(list(ids))
    return stream.feed_pieces(list(ids), kind == "answer", SOURCES[kind])
