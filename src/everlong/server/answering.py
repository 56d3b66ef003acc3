"""One turn of a conversation as a job: messages read into a session, and answers written behind them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from everlong.engine.engine import Engine, GenerationRequest
from everlong.engine.generation import GenerationResult
from everlong.engine.token_odds import TokenOdds
from everlong.server.messages import fitted
from everlong.server.pace import Pace
from everlong.server.worker import Left, Ready
from everlong.session import asking
from everlong.session.asking import Again
from everlong.session.recall import Recall
from everlong.session.session import Session
from everlong.session.thoughts import Exchange
from everlong.text.chat_template import OTHER, Message, Template, message
from everlong.text.transcript import ANSWER, PROMPT


@dataclass(frozen=True)
class Piece:
    """A piece of the answer number `index`: its text, and the odds of the tokens that it ends with."""

    index: int
    text: str
    odds: Sequence[TokenOdds] = ()


Tell = Callable[[Piece], None]
"""Told each piece of an answer as soon as it is decided; called in the engine's thread."""


@dataclass(frozen=True)
class Asked:
    """What is wanted: the messages, how they are answered and how often."""

    messages: Sequence[Message]
    sampling: dict[str, Any]
    n: int = 1
    again: Again | None = None


@dataclass(frozen=True)
class Answered:
    """What was written, and what it took."""

    results: Sequence[GenerationResult]
    prompt_tokens: int
    cached_tokens: int
    report: dict[str, Any]
    messages: Sequence[Message] = field(default_factory=list)
    """The messages that were new to the session."""

    @property
    def usage(self) -> dict[str, Any]:
        """As OpenAI's clients know it, with what the memory holds."""
        written = sum(len(result.token_ids) for result in self.results)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "memory": self.report,
        }


class Turn:
    """The messages of a request in the place that they have in a session, and their answers."""

    def __init__(self, engine: Engine, pace: Pace, session: Session, asked: Asked, tell: Tell) -> None:
        self._engine = engine
        self._pace = pace
        self._session = session
        self._asked = asked
        self._tell = tell
        self._begun = session.seen_tokens
        self._template = Template(session.tokenizer)
        self._messages = fitted(asked.messages, lambda fit: self._exchange(fit).prompt)
        self._here = self._exchange(self._messages)
        self._recall: Recall | None = None

    def _exchange(self, messages: list[Message]) -> Exchange:
        return Exchange(self._template, messages, self._session.conversing, self._begun > 0)

    def run(self) -> Generator[Ready | None, None, Answered]:
        """The answers; the session then holds the messages and the first of them. Left where nothing was written."""
        prompt_tokens = self._begun + len(self._here.prompt)
        twins: list[Session] = []
        read = 0
        try:
            prompt = self._with_passages()
            if prompt is not None:
                twins = [self._session.fork() for _ in range(self._asked.n)]
            elif self._here.rewritten or self._asked.n > 1:
                read = self._here.lasting
                yield from self.reading(self._here.prompt[:read], PROMPT)
                twins = [self._session.fork() for _ in range(self._asked.n)]
                prompt = self._here.prompt[read:] or None
            else:
                prompt = self._here.prompt
            requests = self._submitted(twins or [self._session], prompt)
            yield from self._written(requests)
        finally:
            for twin in twins:
                twin.close()
        results = [request.result for request in requests if request.result is not None]
        if twins:
            before, answer = self._here.to_read(results[0].token_ids)
            yield from self.reading(before[read:], PROMPT)
            yield from self.reading(answer, ANSWER)
        self._session.feed(self._template.closing(), source=PROMPT)
        self._session.conversing = True
        return Answered(results, prompt_tokens, self._begun, self._report(), self._asked.messages)

    def reading(self, ids: Sequence[int], source: str) -> Generator[Ready | None, None, None]:
        """Let the session read ids, a piece between two steps."""
        done = 0
        while done < len(ids):
            piece = ids[done : done + self._pace.piece]
            self._session.feed(piece, answering=source == ANSWER, source=source)
            done += len(piece)
            yield None

    def _with_passages(self) -> list[int] | None:
        """The prompt with passages in front of the last message; None where none are to be read again."""
        session, last = self._session, self._messages[-1]
        if self._asked.again == 0 or last["role"] != "user" or not last["content"].strip():
            return None
        if not asking.recalls(session) or not any(row.sealed for row in session.stored("chat").rows):
            return None
        again = asking.PASSAGES if self._asked.again is None else self._asked.again
        found = asking.recall(session, last["content"], again)
        if not found.shown:
            return None
        self._recall = found
        shown = self._exchange([*self._messages[:-1], message("user", OTHER)]).prompt
        return self._template.with_text(shown, asking.passage_ids(session, found.shown), last["content"])

    def _submitted(self, streams: Sequence[Session], prompt: list[int] | None) -> list[GenerationRequest]:
        ends = {"ends": self._template.end_tokens()}
        found: list[GenerationRequest] = []
        for n, stream in enumerate(streams):
            seed = self._asked.sampling.get("seed")
            own = {"seed": None if seed is None else seed + n}
            told = Told(n, self._tell, found)
            found.append(self._engine.submit(stream, prompt, told, **ends | self._asked.sampling | own))
        return found

    def _written(self, requests: list[GenerationRequest]) -> Generator[Ready | None, None, None]:
        """Wait until they are done; whoever leaves ends them."""
        gone = False
        try:
            yield lambda: all(request.done for request in requests)
        except Left:
            gone = True
        finally:
            for request in requests:
                request.cancel()
        for request in requests:
            if request.error is not None:
                raise Left if gone else request.error

    def _report(self) -> dict[str, Any]:
        shown = () if self._recall is None else self._recall.shown
        return self._session.report().as_dict() | {"reread_tokens": sum(p.last - p.first for p in shown)}


@dataclass
class Told:
    """Tells the pieces of one of several answers, with the odds of their tokens."""

    index: int
    tell: Tell
    requests: list[GenerationRequest]
    given: int = 0

    def __call__(self, text: str) -> None:
        """Take a piece of text."""
        written = self.requests[self.index].written
        odds = [] if written is None else written.odds[self.given :]
        self.given += len(odds)
        self.tell(Piece(self.index, text, odds))
