"""One stream of tokens that a model reads and goes on with: what was read, the cache, and its one counter."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from everlong.cache.report import MemoryReport
from everlong.engine import budgets
from everlong.engine.logprobs import logprobs
from everlong.engine.recompute import make_runner
from everlong.engine.runner import StreamRunner
from everlong.engine.snapshot import Snapshot
from everlong.errors import CapabilityError, InputError, SessionError
from everlong.library.sentence_index import Meaning
from everlong.methods.base import Method
from everlong.methods.blocks.memory import BlockMemory
from everlong.models.load import Loaded
from everlong.ops.spans import Ints
from everlong.storage.budget import Budget
from everlong.text.inputs import (
    Awaited,
    Input,
    Shown,
    TokenHistory,
    Tokens,
    as_ids,
    chunks,
    holds_images,
    is_text,
    row_pieces,
)
from everlong.text.transcript import ANSWER, PROMPT, SOURCE, Transcript

RECENT_TOKENS = 4096
"""Ids kept for the repetition penalty, or as many as the method's window and sinks if that is more."""


class TokenStream(AbstractContextManager["TokenStream"]):
    """One stream read by a model with a method, in memory that does not grow with it.

    Each chunk is read wholly or not at all: an error or an interrupt in the middle leaves the stream as it was after
    the chunk before. The model stays attached until `close()`, or the end of a `with` block.
    """

    def __init__(self, loaded: Loaded, method: Method, chunk: int, allow_special: bool = False) -> None:
        self._take(loaded, method, chunk, allow_special)
        self._budget = Budget()
        self._set_up(make_runner(self.model, method, chunk), remembers=False)

    def _take(self, loaded: Loaded, method: Method, chunk: int, allow_special: bool) -> None:
        self.allow_special = allow_special
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.processor = loaded.processor
        self.name = loaded.name
        self.origin = loaded.origin
        self.identity = loaded.identity
        self.method = method
        self.chunk = chunk
        self.vocabulary: int = self.model.get_input_embeddings().weight.shape[0]

    def _set_up(self, runner: StreamRunner, remembers: bool) -> None:
        """An empty stream, read by `runner`; `remembers` where the transcript is kept whatever the method."""
        method = self.method
        self._runner: StreamRunner | None = runner
        self.transcript, self.awaited = Transcript(self.tokenizer), Awaited()
        self.remembers = method.answers or remembers
        self.source = SOURCE
        self.last: Tensor | None = None
        self._conversing: bool | None = False
        self._marks: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        fields = method.as_dict()
        self.recent = TokenHistory(max(RECENT_TOKENS, fields.get("window", 0) + fields.get("sinks", 0)))
        self._budgets = budgets.Budgets(self._budget, self._runner, self.chunk)
        self._word_classes: Ints | None = None
        self._meaning: Meaning | None = None

    @property
    def runner(self) -> StreamRunner:
        """What reads the stream, its cache brought back; SessionError once it is closed."""
        if self._runner is None:
            raise SessionError("the session is closed; make a new one, or load a saved one")
        if self._runner.away is not None:
            self._runner.reload()
        return self._runner

    @property
    def seen_tokens(self) -> int:
        """Tokens read so far, special ones included."""
        return (self._runner or self.runner).seen_tokens

    @property
    def prediction(self) -> Float[Tensor, " vocabulary"] | None:
        """The logits of the next token; None before the first token (or when an interrupt lost them)."""
        runner = self.runner
        if self.last is None and runner.seen_tokens:
            self.last = runner.predict()
        return self.last

    @property
    def conversing(self) -> bool:
        """Whether what was read ends with a conversation, or a text behind one: messages go on with it."""
        if self._conversing is not None:
            return self._conversing
        # A session that was kept by a version which did not note it down.
        return any(s.name == ANSWER for s in self.transcript.sources) if self.remembers else self.seen_tokens > 0

    @conversing.setter
    def conversing(self, value: bool) -> None:
        self._conversing = value

    def feed(self, x: Input | Shown, answering: bool = False, source: str = SOURCE) -> int:
        """Read `x` (text, ids, an iterator of text, an image); the number of tokens read, 0 for empty input.

        With `answering` each token chooses for itself what it remembers, as those of an answer do (blocks; slower).
        `source` is what citations will call the text.
        InputError, before anything is read, for ids outside the vocabulary; in an iterator, before the piece.

        Images, alone or among texts ([text, image, text]), are Pillow's, or the Path of a file, for models that take
        them (loaded with their processor). Each is read wholly or not at all, and is a source of its own.
        """
        if holds_images(x):
            return self._feed_images(x, answering, source)
        start = self.seen_tokens
        for ids, _ in self.feed_pieces(x, answering, source):
            self.read_piece(ids, answering)
        return self.seen_tokens - start

    def _feed_images(self, x: Shown, answering: bool, source: str) -> int:
        """Read what has an image in it; InputError for a stream that reads text alone."""
        raise InputError(f"{type(x).__name__}: expected text, ids or an iterator of text")

    def feed_pieces(self, x: Input, answering: bool = False, source: str = SOURCE) -> Iterator[tuple[Tensor, bool]]:
        """The ids that `feed` reads as (ids, answering), to be read in this order while nothing else is."""
        self.source = source
        if not answering:
            let_go(self.runner)
        for ids in chunks_of(self, x):
            yield ids, answering

    def stored(self, what: str) -> BlockMemory:
        """The block memory; CapabilityError, naming `what` was wanted, for a method that stores nothing."""
        blocks = self.runner.blocks
        if blocks is None:
            raise CapabilityError(f"{what}: {self.method} stores nothing; use everlong.Blocks")
        return blocks

    def report(self) -> MemoryReport:
        """What the session has seen, what it still attends to, and the bytes this takes."""
        return dataclasses.replace(self.runner.report(), budget_bytes=self._budget.as_dict())

    def fork(self) -> Self:
        """An independent session that has read the same; shares the model, copies the cache (its bytes, once)."""
        runner = self.runner.fork()
        twin = copy.copy(self)
        twin._runner, twin.recent, twin._marks = runner, self.recent.copy(), weakref.WeakSet()
        twin.transcript = self.transcript.copy()
        twin._meaning = None if self._meaning is None else self._meaning.fork()
        twin.awaited = Awaited()
        return twin

    def read_piece(self, ids: Tensor, answering: bool, every: bool = False) -> Tensor:
        """The logits of one chunk, after which the session holds it; or, on any exception, as if not begun.

        Where stored blocks must give way inside the chunk, it is read in parts, each by itself wholly or not at all.
        """
        found: list[Tensor] = []
        for part in self.parts(ids, answering):
            with StreamPiece(self, part, answering, every) as piece:
                logits = self.runner.read(part, piece.every, answering)
                piece.took(logits)
            found[:] = [*(found if every else []), logits]
        return found[0] if len(found) == 1 else torch.cat(found)

    def parts(self, ids: Tensor, answering: bool, whole: bool = False) -> Iterator[Tensor]:
        """The ids, cut where stored blocks must give way before more is read; BudgetError where none may.

        With `whole` they are one part, for which blocks give way at once, or none does.
        """
        if self._budgets.room is None:
            return iter((ids,))
        given = self.runner, ids, answering, self.source in (PROMPT, ANSWER), self._reuse
        if not whole:
            return self._budgets.parts(*given)
        self._budgets.make_room(*given)
        return iter((ids,))

    def offload(self) -> None:
        """Frees the cache until the stream is next used, which brings it back; marks keep theirs.

        What it held on the model's device lies in host memory meanwhile; a session that is kept in a store is
        checkpointed and lies there.
        """
        (self._runner or self.runner).offload()

    def _reuse(self) -> None:
        """Let the room of blocks that were given up be used again; a stream that is not kept has none on the disk."""

    def close(self) -> None:
        """Free the cache and the marks, and detach the model if no other stream uses it; may be called twice."""
        runner = self._runner
        self._runner = None
        self.last = None
        for mark in list(self._marks):
            mark.close()
        self._marks.clear()
        if runner is not None:
            runner.close()
        meaning = self._meaning
        self._meaning = None
        if meaning is not None:
            meaning.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class StreamPiece(AbstractContextManager["StreamPiece"]):
    """`ids` [n] (int64, CPU) that `stream` reads; the forward runs inside, and `took` is told what it gave.

    Whatever happens inside, the stream then holds the piece wholly or not at all. `every`: the logits after each of
    the tokens are wanted, not after the last alone; so they are where the text is cut by how surprising it is.
    """

    def __init__(self, stream: TokenStream, ids: Tensor, answering: bool = False, every: bool = False) -> None:
        self.stream = stream
        self.ids = ids
        self.answering = answering
        blocks = stream.runner.blocks
        self._cuts = blocks if blocks is not None and blocks.wants_surprisals else None
        self.every = every or self._cuts is not None
        self._before = stream.last

    def __enter__(self) -> StreamPiece:
        if self._cuts is not None:
            self._cuts.tell_lost(self.stream.runner.seen_tokens)
        return self

    def took(self, logits: Tensor) -> None:
        """Take down what was read; `logits` [n, vocabulary] of every token, or [1 or 0, vocabulary]."""
        stream = self.stream
        stream.last = None
        if self._cuts is not None:
            self._cuts.tell(-logprobs(self._before, logits, self.ids)[None])
        self._note()
        if self.every:
            # A view would hold the logits of all tokens for as long as the last are wanted.
            stream.last = logits[-1].clone()
        else:
            stream.last = logits[-1] if len(logits) else None

    def __exit__(self, *exc: object) -> None:
        stream = self.stream
        # An interrupt can come when the cache has committed and nothing was taken down yet: then the piece was read.
        if stream.recent.seen < stream.runner.seen_tokens:
            stream.last = None
            self._note()

    def _note(self) -> None:
        stream = self.stream
        seen = stream.recent.seen
        if stream.remembers and len(stream.transcript.ids) == seen:
            stream.transcript.add(self.ids.tolist(), stream.source, stream.awaited.rows(seen, self.ids))
        stream.recent.add(self.ids)


def chunks_of(stream: TokenStream, x: Input) -> Iterator[Tensor]:
    """The ids of `x` in chunks."""
    runner = stream.runner
    most = min(stream.chunk, runner.chunk_limit)
    stream.awaited.clear()
    if not isinstance(x, Tokens) and not is_text(x):
        yield from chunks([as_ids(x, stream.vocabulary)], most)
        return
    found = row_pieces(x, stream.tokenizer, stream.vocabulary, runner.seen_tokens == 0, stream.allow_special)
    for rows in chunks(found, most):
        stream.awaited.add(rows, runner.seen_tokens)
        yield rows[:, 0].contiguous()


def let_go(runner: StreamRunner) -> None:
    """Let no recalled blocks be held any more: other text is read."""
    memory = runner.blocks
    if memory is not None and memory.rows:
        memory.rows[0].hold_recalled(())
