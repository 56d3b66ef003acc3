"""Many streams of one model read and written together: each step is one forward over what is next of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from everlong.engine import batch
from everlong.engine.generation import GenerationResult, GenerationStream
from everlong.engine.sampling import Sampling
from everlong.engine.scheduler import TOKENS, TURN, Need, Scheduler
from everlong.engine.stream import StreamPiece
from everlong.engine.writing import WritingStream, begin_answer, check_writes
from everlong.errors import ConfigError, EverlongError, SessionError
from everlong.text.inputs import Input
from everlong.text.transcript import ANSWER

Told = Callable[[str], None]
"""Told each piece of text as soon as it is decided."""
Pieces = Iterator[tuple[Tensor, bool]]
"""Ids that are to be read one after the other, each with whether they answer."""


@dataclass(eq=False)
class GenerationRequest:
    """An answer that an engine writes; `result` is there when it is `done`, or `error` says why there is none."""

    stream: WritingStream
    settings: Sampling
    told: Told
    key: int
    result: GenerationResult | None = None
    error: EverlongError | None = None
    seconds: float = 0.0
    """Its share of the time that forwards took, by its tokens in them, and what preparing it took."""
    _pieces: Pieces | None = None
    _next: tuple[Tensor, bool] | None = None
    _answer: GenerationStream | None = field(default=None, repr=False)

    @property
    def written(self) -> GenerationResult | None:
        """What was written so far; None while the prompt is read."""
        return None if self._answer is None else self._answer.result

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self.result is not None or self.error is not None

    def cancel(self) -> None:
        """End it here: the stream keeps what it has read, and `result` what was written."""
        if not self.done:
            self._end()

    def offload(self) -> None:
        """Free the cache of its stream, which waits; what cannot be kept ends this request alone."""
        try:
            self.stream.offload()
        except EverlongError as error:
            self.error = error

    def need(self) -> Need:
        """What is to be read next. Draws a token where the prompt is read; an error ends the request alone."""
        start = time.perf_counter()
        try:
            self._prepare()
        except EverlongError as error:
            self.error = error
        self.seconds += time.perf_counter() - start
        tokens = 0 if self.done or self._next is None else len(self._next[0])
        return Need(self.key, tokens, writes=self._answer is not None)

    def _prepare(self) -> None:
        if self.done or self._next is not None:
            return
        if self._pieces is not None:
            self._next = self._next_piece(self._pieces)
            if self._next is not None:
                return
            self._pieces = None
        if self._answer is None:
            self._answer = begin_answer(self.stream, self.settings)
        token = self._answer.draw()
        if token is None:
            self._end()
        else:
            self.stream.source = ANSWER
            self._next = torch.tensor([token]), True

    def _next_piece(self, pieces: Pieces) -> tuple[Tensor, bool] | None:
        try:
            return next(pieces, None)
        except BaseException:
            # A generator that has raised is at its end: asked again, it would cut the prompt off without a word.
            seen = self.stream.seen_tokens
            self.error = SessionError(f"the prompt was interrupted after {seen} tokens of the stream; submit the rest")
            raise

    def piece(self, tokens: int) -> StreamPiece | None:
        """The next tokens, at most so many; None where a budget has no room for them, which ends the request."""
        assert self._next is not None
        ids, answering = self._next
        try:
            return StreamPiece(self.stream, next(self.stream.parts(ids[:tokens], answering)), answering)
        except EverlongError as error:
            self.error = error
            return None

    def took(self, tokens: int) -> None:
        """The stream has read so many tokens of what was next."""
        assert self._next is not None
        ids, answering = self._next
        self._next = (ids[tokens:], answering) if tokens < len(ids) else None
        if self._answer is not None and self._next is None and (text := self._answer.took()):
            self.told(text)

    def _end(self) -> None:
        if self._answer is None:
            self.error = SessionError("the request was cancelled before anything was written; submit it again")
            return
        if rest := self._answer.finish():
            self.told(rest)
        self.result = self._answer.result


class Engine:
    """Writes many answers at once, each on a stream of its own; all of one model.

    A step packs the next tokens of all streams, at most `tokens` in all, into one forward where the model allows it
    (`unpackable` says why it does not); what a stream computes does not depend on its neighbours (beyond rounding).

    At most `streams` of them (None: all) have their cache on the model's device; the others wait in line. One that has
    read in `turn` steps gives way: its cache is offloaded (a session that is kept in a store is checkpointed) and comes
    back by itself. A stream whose request has ended is its owner's again, as it is then.
    """

    def __init__(self, tokens: int = TOKENS, streams: int | None = None, turn: int = TURN) -> None:
        self.requests: dict[int, GenerationRequest] = {}
        self._scheduler = Scheduler(tokens, streams, turn)
        self._submitted = 0

    @property
    def tokens(self) -> int:
        """Tokens of one step at most."""
        return self._scheduler.tokens

    @tokens.setter
    def tokens(self, tokens: int) -> None:
        self._scheduler.tokens = tokens

    def submit(
        self,
        stream: WritingStream,
        prompt: Input | None = None,
        told: Told = lambda text: None,
        pieces: Pieces | None = None,
        **sampling: Any,
    ) -> GenerationRequest:
        """Write an answer to `prompt` on `stream`, as its `generate` would, together with others.

        `pieces`, in the place of a prompt: what is read first, as the stream's `feed_pieces` and `prompt_pieces` give
        it. SessionError for a stream that another request writes on.
        """
        if prompt is not None and pieces is not None:
            raise ConfigError("submit: got a prompt and pieces; give one of them")
        settings = Sampling(**sampling)
        check_writes(stream, settings)
        if any(request.stream is stream for request in self.requests.values()):
            raise SessionError("engine: another request writes on this stream; wait for its end, or fork the stream")
        key = self._submitted
        self._submitted += 1
        if prompt is not None:
            pieces = stream.prompt_pieces(prompt)
        self.requests[key] = GenerationRequest(stream, settings, told, key, _pieces=pieces)
        return self.requests[key]

    def step(self) -> bool:
        """One forward; False where there was nothing to do. What fails in it leaves each piece wholly read or not."""
        self._forget_done()
        there = bool(self.requests)
        needs = [request.need() for request in self._admitted()]
        self._forget_done()
        plan = self._scheduler.plan(need for need in needs if need.key in self.requests)
        pieces = {key: self.requests[key].piece(tokens) for key, tokens in plan.items()}
        reading = {key: piece for key, piece in pieces.items() if piece is not None}
        before = {key: piece.stream.seen_tokens for key, piece in reading.items()}
        start = time.perf_counter()
        try:
            if reading:
                batch.read(list(reading.values()))
        finally:
            per_token_s = (time.perf_counter() - start) / max(1, sum(len(piece.ids) for piece in reading.values()))
            # What fails between two streams' commits has been read by the first of them.
            for key, piece in reading.items():
                self.requests[key].seconds += per_token_s * len(piece.ids)
                if read := piece.stream.seen_tokens - before[key]:
                    self.requests[key].took(read)
        self._forget_done()
        return there

    def run(self) -> None:
        """Until all requests are done."""
        while self.step():
            pass

    def _admitted(self) -> list[GenerationRequest]:
        """The requests whose streams are open in this step; those of the others are offloaded first."""
        admitted = self._scheduler.admit(self.requests)
        for key in self.requests.keys() - admitted:
            self.requests[key].offload()
        return [self.requests[key] for key in admitted]

    def _forget_done(self) -> None:
        for key in [key for key, request in self.requests.items() if request.done]:
            del self.requests[key]
