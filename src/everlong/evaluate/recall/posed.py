"""A question read by a copy of a stream, whatever the stream is: what was recalled, and what the model says then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.engine.writing import WritingStream
from everlong.evaluate.baseline import PeerStream
from everlong.evaluate.stream import Stream, too_long, trained_length
from everlong.session.citations import drawn_on
from everlong.session.recall import Recall
from everlong.text.tokenize import token_ids
from everlong.text.transcript import ANSWER, PROMPT

Way = int | Literal["auto"]
"""How many passages are read again for a question (0: only blocks come back)."""
_ALL = 1 << 30


@runtime_checkable
class Cited(Protocol):
    """Characters `start` .. `end - 1` of a source, and the text of them: a citation, or a recalled passage."""

    @property
    def source(self) -> str:
        """Its name."""
        ...

    @property
    def start(self) -> int:
        """The first character."""
        ...

    @property
    def end(self) -> int:
        """The character behind the last."""
        ...

    @property
    def text(self) -> str:
        """What stands there."""
        ...


@runtime_checkable
class AskedModel(Protocol):
    """A question that was read, and nothing written yet."""

    tokenizer: Any
    recall: Recall | None

    def predictions(self, ids: list[int]) -> Float[Tensor, "tokens vocabulary"]:
        """The logits before each of `ids`, which are read on the way, each as a token of an answer is."""
        ...

    def upcoming(self) -> Float[Tensor, " vocabulary"]:
        """The logits of the next token."""
        ...

    def cited(self) -> list[Cited] | None:
        """What was drawn on so far, the most important first; None for a method that stores nothing."""
        ...


@dataclass
class SessionAsked(AskedModel):
    """On a session."""

    session: WritingStream
    recall: Recall | None

    def __post_init__(self) -> None:
        self.tokenizer = self.session.tokenizer

    def predictions(self, ids: list[int]) -> Float[Tensor, "tokens vocabulary"]:
        """Token by token where tokens of an answer see other things than those that are only read."""
        session = self.session
        assert session.prediction is not None
        if not session.method.answers:
            before = session.prediction[None]
            return torch.cat([before, session.score(ids, logits=True)[1][:-1].to(before)])
        found = []
        for token in ids:
            found.append(session.prediction)
            session.feed([token], answering=True, source=ANSWER)
        return torch.stack(found)

    def upcoming(self) -> Float[Tensor, " vocabulary"]:
        """The session's prediction."""
        assert self.session.prediction is not None
        return self.session.prediction

    def cited(self) -> list[Cited] | None:
        """The vote's passages, else those that the answer's tokens attended to."""
        if self.recall is not None:
            return list(self.recall.passages)
        if not self.session.method.answers:
            return None
        return [one for one in drawn_on(self.session, _ALL) if one.source not in (PROMPT, ANSWER)]


@dataclass
class PeerAsked(AskedModel):
    """On plain transformers: the ids of the prompt so far."""

    peer: PeerStream
    ids: list[int]
    recall: Recall | None = None

    def __post_init__(self) -> None:
        self.tokenizer = self.peer.tokenizer

    def predictions(self, ids: list[int]) -> Float[Tensor, "tokens vocabulary"]:
        """The model's; its cache goes on from what it has in common with the prompt."""
        found = torch.cat(list(self.peer.predictions(self.ids, ids)))
        self.ids = self.ids + ids
        return found

    def upcoming(self) -> Float[Tensor, " vocabulary"]:
        """The model's."""
        return next(iter(self.peer.predictions(self.ids, [])))[0]

    def cited(self) -> list[Cited] | None:
        """Nothing is stored."""
        return None


@contextmanager
def posed(stream: Stream, question: str, again: Way) -> Iterator[AskedModel]:
    """The question as plain completion on a copy of the stream, which stays as it was.

    TooLongError if it and what was read pass what dense attention was trained for.
    """
    if isinstance(stream, PeerStream):
        ids = stream.ids + token_ids(stream.tokenizer, question)
        too_long(len(ids), stream.limit)
        yield PeerAsked(stream, ids)
        return
    session = stream.session
    assert session is not None
    if session.method.name == "dense":
        coming = len(token_ids(session.tokenizer, question))
        too_long(stream.seen_tokens + coming, trained_length(session.model))
    with session.pose(question, again=again, raw=True) as found:
        yield SessionAsked(found.session, found.recall)
