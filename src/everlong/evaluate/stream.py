"""What a task sees of a method: an empty stream that reads, answers and scores, and keeps the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from everlong.errors import TooLongError
from everlong.models.load import Loaded
from everlong.session.session import Session
from everlong.text.tokenize import token_ids

PIECE_CHARS = 16384
"""Characters between two signs of progress."""
Tick = Callable[[int], None]
"""Told how many characters were read since."""


@runtime_checkable
class Stream(Protocol):
    """One stream of text, read from its beginning. Strings that are given one after another are tokenised apart."""

    clock: Clock

    @property
    def seen_tokens(self) -> int:
        """Tokens read and written so far."""
        ...

    @property
    def session(self) -> Session | None:
        """The session behind it (sources, citations, forgetting); None for plain transformers."""
        ...

    def feed(self, text: str, source: str = "text", template: bool = False) -> int:
        """Read `text`; the number of its tokens. TooLongError where the model cannot take it.

        `template`: a chat template wrote it, so that the control tokens which it spells are such.
        """
        ...

    def ask(
        self, question: str, max_new_tokens: int, stop: Sequence[str] = (), keep: bool = True, template: bool = False
    ) -> str:
        """The likeliest answer to `question`, before any of the texts in `stop`.

        Not `keep`: the stream is afterwards as if it had never been asked. `template` as in `feed`.
        """
        ...

    def forked(self) -> AbstractContextManager[Stream]:
        """A stream that has read the same, on the same clock; what it reads and writes is gone with it."""
        ...

    def score(self, text: str | Sequence[int]) -> Iterator[Tensor]:
        """Read `text` (or ids) and give the log-probabilities of its tokens, in pieces; NaN for the first of all."""
        ...

    def report(self) -> dict[str, Any]:
        """What it has seen and holds: fields as in MemoryReport."""
        ...


@dataclass
class Clock:
    """Seconds that the model took, and counts of tokens."""

    model_s: float = 0.0
    new_tokens: int = 0
    prompt_tokens: int = 0
    """Tokens before the newest answer, or behind the newest score."""
    truncated_tokens: int = 0
    """Tokens of prompts that were left out because the model cannot take them (plain transformers only)."""
    tick: Tick = field(default=lambda chars: None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of what is done inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.model_s += time.perf_counter() - start


def trained_length(model: Any) -> int:
    """Tokens of context that the model was trained for, as its config says."""
    return int(model.config.get_text_config().max_position_embeddings)


class MethodStream(Stream):
    """A session of a method. Dense attention refuses what passes the trained length."""

    def __init__(self, loaded: Loaded, session: Session, clock: Clock) -> None:
        self.loaded = loaded
        self.clock = clock
        self._session = session
        self._limit = trained_length(loaded.model) if session.method.name == "dense" else None

    @property
    def session(self) -> Session:
        """The session."""
        return self._session

    @property
    def seen_tokens(self) -> int:
        """Tokens read and written so far."""
        return self._session.seen_tokens

    def feed(self, text: str, source: str = "text", template: bool = False) -> int:
        """Read `text`, and tick on the way."""
        self._fits(text)
        with self.clock.running():
            return self._session.feed(self._ids(text) if template else self._pieces(text), source=source)

    def ask(
        self, question: str, max_new_tokens: int, stop: Sequence[str] = (), keep: bool = True, template: bool = False
    ) -> str:
        """The session's answer, drawn greedily."""
        if not keep:
            with self.forked() as twin:
                return twin.ask(question, max_new_tokens, stop, template=template)
        self._fits(question, max_new_tokens)
        prompt = self._ids(question) if template else question
        with self.clock.running():
            found = self._session.generate(prompt, max_new_tokens=max_new_tokens, stop=tuple(stop))
            self.clock.prompt_tokens = self.seen_tokens - len(found.token_ids)
            self.clock.new_tokens += len(found.token_ids)
        self.clock.tick(len(question))
        return found.text

    def pieces(self, text: str, question: str, max_new_tokens: int) -> Iterator[tuple[Tensor, bool]]:
        """What `feed(text)` and then `ask(question)` read, as an engine takes it, which then writes the answer."""
        self._fits(text)
        yield from self._session.feed_pieces(self._pieces(text))
        self._fits(question, max_new_tokens)
        yield from self._session.prompt_pieces(question)

    @contextmanager
    def forked(self) -> Iterator[Stream]:
        """A fork of the session; it shares what is stored."""
        with self.clock.running():
            session = self._session.fork()
        with session:
            yield MethodStream(self.loaded, session, self.clock)

    def score(self, text: str | Sequence[int]) -> Iterator[Tensor]:
        """The session's log-probabilities."""
        self._fits(text)
        found = self._session.score_stream(text)
        while True:
            with self.clock.running():
                part = next(found, None)
            if part is None:
                return
            self.clock.prompt_tokens = self.seen_tokens
            yield part
            self.clock.tick(len(part))

    def report(self) -> dict[str, Any]:
        """The session's report."""
        return self._session.report().as_dict()

    def _ids(self, text: str) -> list[int]:
        """The ids of what a template wrote."""
        return token_ids(self.loaded.tokenizer, text, special=not self.seen_tokens, allow_special=True)

    def _pieces(self, text: str) -> Iterator[str]:
        for at in range(0, len(text), PIECE_CHARS):
            yield text[at : at + PIECE_CHARS]
            self.clock.tick(min(PIECE_CHARS, len(text) - at))

    def _fits(self, text: str | Sequence[int], more: int = 0) -> None:
        """TooLongError if what comes does not fit."""
        if self._limit is not None:
            coming = len(token_ids(self.loaded.tokenizer, text) if isinstance(text, str) else text)
            too_long(self.seen_tokens + coming + more, self._limit)


def too_long(tokens: int, limit: int) -> None:
    """TooLongError if so many tokens pass the limit."""
    if tokens > limit:
        raise TooLongError(f"{tokens} tokens: dense attention takes {limit} (trained length); use another method")
