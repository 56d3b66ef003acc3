"""Contexts read once, and what a model says behind them: how likely a continuation is, or an answer.

Requests of a harness come one after another with contexts that are equal (choices of one question) or begin alike
(questions about one document, few-shot examples). What the next context begins with too is read once and marked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from everlong.engine.snapshot import Snapshot
from everlong.engine.writing import ANSWERING_TOKENS
from everlong.errors import ConfigError
from everlong.evaluate.baseline import PeerStream
from everlong.session.session import Session

SHARED_TOKENS = 32
"""A common beginning of so many tokens is worth a copy of the cache."""


@dataclass(frozen=True)
class Writing:
    """How an answer is written: tokens at most, texts that end it, and fields of Sampling (none: greedily)."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What was asked, the ids of the context, and what is to come behind it: given ids, or an answer."""

    asked: Any
    context: list[int]
    then: list[int] | Writing


@runtime_checkable
class Contexts(Protocol):
    """A model that has read one context at a time."""

    def read(self, ids: list[int], following: list[int], several: bool) -> None:
        """Read the context `ids`; `following` is the next one, `several` says that more than one call comes."""
        ...

    def continued(self, ids: list[int]) -> tuple[float, bool]:
        """(natural log-likelihood of `ids` behind the context, whether a greedy answer would begin with them)."""
        ...

    def answer(self, how: Writing) -> str:
        """The text that follows the context, before any of the texts in `stop`."""
        ...


class SessionContexts(Contexts):
    """Contexts in one session, read as `Session.generate` reads a prompt: its last tokens as part of the answer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stem: list[int] = []
        self._mark: Snapshot | None = None
        self._end: Snapshot | None = None

    def read(self, ids: list[int], following: list[int], several: bool) -> None:
        """Go back to the marked beginning, or begin anew, and read on."""
        session = self._session
        read_only = self._read_only(ids)
        self._go_back(ids[:read_only])
        stem = min(_common(ids, following), read_only, self._read_only(following))
        if stem - session.seen_tokens >= SHARED_TOKENS:
            session.feed(ids[session.seen_tokens : stem])
            self._let_go()
            self._stem, self._mark = ids[:stem], session.mark()
        session.feed(ids[session.seen_tokens : read_only])
        session.feed(ids[read_only:], answering=session.method.answers)
        self._end = session.mark() if several else None

    def continued(self, ids: list[int]) -> tuple[float, bool]:
        """Each token of the continuation remembers as that of an answer would."""
        found = judged(self._predictions(ids), ids)
        self._rewind()
        return found

    def answer(self, how: Writing) -> str:
        """The session's own answer."""
        found = self._session.generate(None, max_new_tokens=how.max_new_tokens, stop=how.stop, **how.sampling)
        self._rewind()
        return found.text

    def _predictions(self, ids: list[int]) -> Iterator[Tensor]:
        """The logits before each of the ids."""
        session = self._session
        step = 1 if session.method.answers else session.chunk
        assert session.prediction is not None
        yield session.prediction[None]
        for at in range(0, len(ids) - 1, step):
            piece = ids[:-1][at : at + step]
            if not session.method.answers:
                yield session.score(piece, logits=True)[1]
                continue
            session.feed(piece, answering=True)
            yield session.prediction[None]

    def _read_only(self, ids: list[int]) -> int:
        """How many tokens of a context are no part of the answer."""
        return max(0, len(ids) - ANSWERING_TOKENS) if self._session.method.answers else len(ids)

    def _go_back(self, ids: list[int]) -> None:
        """To the mark if `ids` begin as it does, else to an empty session."""
        if self._end is not None:
            self._end.close()
            self._end = None
        if self._mark is not None and ids[: len(self._stem)] == self._stem:
            self._session.rewind(self._mark)
            return
        self._let_go()
        self._session.reset()

    def _let_go(self) -> None:
        if self._mark is not None:
            self._mark.close()
        self._stem = []
        self._mark = None

    def _rewind(self) -> None:
        if self._end is not None:
            self._session.rewind(self._end)


class PeerContexts(Contexts):
    """Contexts in plain transformers, whose cache keeps what one has in common with the next."""

    def __init__(self, peer: PeerStream) -> None:
        self._peer = peer

    def read(self, ids: list[int], following: list[int], several: bool) -> None:
        """Take the ids down; the model sees them with what follows."""
        self._peer.ids = ids

    def continued(self, ids: list[int]) -> tuple[float, bool]:
        """What the plain model predicts."""
        return judged(self._peer.predictions(self._peer.ids, ids), ids)

    def answer(self, how: Writing) -> str:
        """A greedy answer; ConfigError for any other."""
        for name, value in how.sampling.items():
            raise ConfigError(f"{name}={value}: method transformers answers greedily; take dense for sampled answers")
        return self._peer.ask("", how.max_new_tokens, how.stop, keep=False)


def one_by_one(contexts: Contexts, requests: Sequence[Request]) -> Iterator[Request]:
    """The requests in their order, each when its context was read; equal contexts in a row are read once."""
    groups = [list(group) for _, group in itertools.groupby(requests, key=lambda request: request.context)]
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        contexts.read(group[0].context, following[0].context if following else [], len(group) > 1)
        yield from group


def judged(predictions: Iterable[Tensor], ids: list[int]) -> tuple[float, bool]:
    """(sum of the log-probabilities of `ids`, whether each is the likeliest), from the logits before each, in pieces.

    Without ids (0, True).
    """
    total = 0.0
    greedy = True
    at = 0
    for logits in predictions if ids else ():
        wanted = torch.tensor(ids[at : at + len(logits)], device=logits.device)
        found = logits.float().log_softmax(-1).gather(1, wanted[:, None])
        total += float(found.double().sum())
        greedy = greedy and bool((logits.argmax(-1) == wanted).all())
        at += len(logits)
    return total, greedy


def _common(a: list[int], b: list[int]) -> int:
    """How many ids both begin with."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
