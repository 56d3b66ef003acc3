"""A stream without a model: it writes down what it is given, and answers what a function says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from everlong.evaluate.stream import Clock, Stream
from everlong.session.forgetting import Forgotten
from everlong.text.transcript import Citation

PIECE_TOKENS = 4
"""Tokens scored at a time."""


@dataclass(frozen=True)
class Asked:
    """One call of `ask`."""

    question: str
    max_new_tokens: int
    stop: tuple[str, ...]
    keep: bool


class EchoStream(Stream):
    """Words are its tokens.

    `answer(text, question)` is told all that was read; `logprob(n)` is that of the token at place n. `fed` and `asked`
    hold the calls in order.
    """

    def __init__(
        self,
        answer: Callable[[str, str], str] = lambda text, question: "",
        logprob: Callable[[int], float] = lambda n: -1.0,
        session: Any = None,
    ) -> None:
        self.clock, self._session, self._answer, self._logprob = Clock(), session, answer, logprob
        self.text, self.fed, self.asked = "", list[tuple[str, str]](), list[Asked]()
        self.answers: list[str] = []
        self._seen = self.forks = 0
        if session is not None:
            session.stream = self

    @property
    def session(self) -> Any:
        return self._session

    @property
    def seen_tokens(self) -> int:
        return self._seen

    def feed(self, text: str, source: str = "text", template: bool = False) -> int:
        self.fed.append((text, source))
        return self._read(text)

    def ask(
        self, question: str, max_new_tokens: int, stop: Sequence[str] = (), keep: bool = True, template: bool = False
    ) -> str:
        self.asked.append(Asked(question, max_new_tokens, tuple(stop), keep))
        answer = self._answer(self.text, question)
        self.answers.append(answer)
        self.clock.prompt_tokens = self._seen + len(question.split())
        self.clock.new_tokens += len(answer.split())
        if keep:
            self._read(question + answer)
        return answer

    @contextmanager
    def forked(self) -> Iterator[Stream]:
        text, seen = self.text, self._seen
        self.forks += 1
        yield self
        self.text, self._seen = text, seen

    def score(self, text: str | Sequence[int]) -> Iterator[Tensor]:
        tokens = text.split() if isinstance(text, str) else list(text)
        for at in range(0, len(tokens), PIECE_TOKENS):
            places = range(self._seen, self._seen + len(tokens[at : at + PIECE_TOKENS]))
            self._seen += len(places)
            yield torch.tensor([self._logprob(n) if n else math.nan for n in places])
        if isinstance(text, str):
            self.text += text

    def report(self) -> dict[str, Any]:
        return {"seen_tokens": self._seen}

    def _read(self, text: str) -> int:
        self.text += text
        self._seen += len(text.split())
        return len(text.split())


class EchoSession:
    """What stands behind an EchoStream whose method stores blocks: it cites the texts that hold its last answer."""

    method = SimpleNamespace(name="blocks", answers=True, as_dict=dict)

    def __init__(self) -> None:
        self.stream: Any = None
        self.forgotten: list[str] = []

    def citations(self, top: int = 5) -> list[Citation]:
        last = self.stream.answers[-1].strip()
        held = [(text, source) for text, source in self.stream.fed if last and last in text]
        return [Citation(source, 0, len(text), text, 1 / len(held)) for text, source in held][:top]

    def forget(self, source: str) -> Forgotten:
        gone = [text for text, name in self.stream.fed if name == source]
        self.forgotten.append(source)
        self.stream.fed = [(text, name) for text, name in self.stream.fed if name != source]
        for text in gone:
            self.stream.text = self.stream.text.replace(text, "")
        return Forgotten(sum(len(text.split()) for text in gone), len(gone), 0)
