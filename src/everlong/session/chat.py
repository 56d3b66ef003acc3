"""A conversation without end in one session: only what is new is read at each turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from everlong.errors import ConfigError
from everlong.session import asking
from everlong.session.answer import Answer, Generation
from everlong.session.asking import Again
from everlong.session.mark import Mark
from everlong.session.recall import Recall
from everlong.session.sampling import Sampling
from everlong.session.session import Session
from everlong.session.template import Template
from everlong.session.transcript import ANSWER, PROMPT


def system_tokens(tokenizer: Any, system: str | None = None) -> int:
    """How many tokens the system prompt takes in the tokenizer's template: sinks that would pin it for ever.

    With `system` None, those of the template's own prompt, if it has one.
    """
    return Template(tokenizer, system).system_tokens


class Chat:
    """Turns of a conversation through the tokenizer's chat template, read into `session`.

    `again`: where the session recalls passages, at most so many of those that a message calls for are read again in
    front of it (default 2; "auto", or 0 for none), in a copy of the session: they do not become part of the
    conversation.

    `system` opens the conversation whenever the session is empty; a session that holds tokens goes on as if
    an answer had just been completed. `undo` is how many turns can be taken back; each costs a copy of the
    cache. CapabilityError where there is no template.
    """

    def __init__(self, session: Session, system: str | None = None, undo: int = 1, again: Again | None = None) -> None:
        if undo < 0:
            raise ConfigError(f"undo={undo}: must be at least 0 (turns that can be taken back)")
        self.session = session
        self.turns = 0
        self.recall: Recall | None = None
        """What came back for the last message."""
        self._again = again
        self._template = Template(session.tokenizer, system)
        self._marks: deque[Mark] = deque()
        self._undo = undo
        self._answering = False

    def say(self, text: str, **sampling: Any) -> Generation:
        """The model's answer to `text`; `sampling` as in `Session.generate`."""
        turn = self.stream(text, **sampling)
        for _ in turn:
            pass
        return turn.result

    def stream(self, text: str, **sampling: Any) -> Turn:
        """The answer to `text` piece by piece; leaving it early (`close()`, an interrupt) ends the turn there.

        An interrupt while `text` is read takes the turn back, if `undo` allows that.
        """
        settings: dict[str, Any] = {"ends": self._template.end_tokens()} | sampling
        Sampling(**settings)
        self.settle()
        new = self._template.turn(text) if self.session.seen_tokens else self._template.opening(text)
        mark = self.session.mark() if self._undo else None
        self.recall = self._recalled(text)
        self._answering = True
        try:
            if self.recall is None:
                turn = Turn(self, self.session.stream(new, **settings))
            else:
                turn = self._turn_with_passages(text, new, self.recall, settings)
        except BaseException:
            self._take_back(mark)
            raise
        self._remember(mark)
        self.turns += 1
        return turn

    def _recalled(self, text: str) -> Recall | None:
        """The passages that a message calls for; None where none are to be read again."""
        if self._again == 0 or not asking.recalls(self.session) or not self.session.stored("chat").sealed():
            return None
        found = asking.recall(self.session, text, asking.PASSAGES if self._again is None else self._again)
        return found if found.shown else None

    def _turn_with_passages(self, text: str, new: list[int], found: Recall, settings: dict[str, Any]) -> Turn:
        """The answer of a copy that reads the passages and the message; the session reads the message alone."""
        twin = self.session.fork()
        try:
            prompt = self._template.turn_around(text, asking.passage_ids(self.session, found.shown))
            answer = twin.stream(prompt, **settings)
        except BaseException:
            twin.close()
            raise
        return Turn(self, answer, twin, new)

    def take_over(self, twin: Session, new: list[int], written: list[int]) -> None:
        """Reads a message and the answer that a copy has written to it."""
        twin.close()
        self.session.feed(new, source=PROMPT)
        if written:
            self.session.feed(written, answering=True, source=ANSWER)

    def settle(self) -> None:
        """Reads what the template puts behind an answer, if that is still to be done; `save` a session after it."""
        if self._answering:
            self.session.feed(self._template.closing())
            self._answering = False

    def undo(self) -> bool:
        """Takes the last turn back, question and answer; False where none can be."""
        if not self._marks:
            return False
        self._take_back(self._marks.pop())
        self.turns -= 1
        return True

    def reset(self) -> None:
        """Begins the conversation anew."""
        self.session.reset()
        while self._marks:
            self._marks.pop().close()
        self.turns, self._answering = 0, False

    def _remember(self, mark: Mark | None) -> None:
        if mark is not None:
            self._marks.append(mark)
        if len(self._marks) > self._undo:
            self._marks.popleft().close()

    def _take_back(self, mark: Mark | None) -> None:
        if mark is not None:
            self.session.rewind(mark)
            mark.close()
            self._answering = False


class Turn(Iterator[str]):
    """The pieces of an answer; the turn is completed in the session when they end or are left."""

    def __init__(self, chat: Chat, answer: Answer, twin: Session | None = None, new: list[int] | None = None) -> None:
        self._chat, self._answer, self._twin, self._new = chat, answer, twin, new or []

    def __next__(self) -> str:
        try:
            return next(self._answer)
        except StopIteration:
            self._complete()
            raise

    def close(self) -> None:
        """Ends the answer here."""
        self._answer.close()
        self._complete()

    def _complete(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            self._chat.take_over(twin, self._new, self.result.token_ids)
        self._chat.settle()

    @property
    def result(self) -> Generation:
        """What was answered so far."""
        return self._answer.result
