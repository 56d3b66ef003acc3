"""A conversation without end in one session: only what is new is read at each turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from everlong.engine.generation import GenerationResult, GenerationStream
from everlong.engine.sampling import Sampling
from everlong.engine.snapshot import Snapshot
from everlong.engine.writing import ANSWERING_TOKENS, WritingStream
from everlong.errors import ConfigError
from everlong.session import asking
from everlong.session.asking import Again
from everlong.session.called_for import CalledFor, called_for, written_behind, written_behind_passages
from everlong.session.recall import Recall
from everlong.session.session import Session
from everlong.session.thoughts import Exchange
from everlong.text.chat_template import OTHER, Template
from everlong.text.transcript import PROMPT


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

    `system` opens the conversation where none was held in the session; one that holds a conversation goes on as if
    an answer had just been completed. `undo` is how many turns can be taken back; each costs a copy of the
    cache. CapabilityError where there is no template.

    Where the template leaves out of earlier answers what was thought, the session does so too: such an answer is
    written in a copy of it, and read as the template shows it (thoughts.py).
    """

    def __init__(self, session: Session, system: str | None = None, undo: int = 1, again: Again | None = None) -> None:
        if undo < 0:
            raise ConfigError(f"undo={undo}: must be at least 0 (turns that can be taken back)")
        self.session = session
        self.turns = 0
        self.recall: Recall | None = None
        """What came back for the last message."""
        self._again = again
        self._template = Template(session.tokenizer, system, session.allow_special)
        self._marks: deque[Snapshot] = deque()
        self._undo = undo
        self._answering = False
        self._turn: ChatTurn | None = None

    def say(self, text: str, **sampling: Any) -> GenerationResult:
        """The model's answer to `text`; `sampling` as in `Session.generate`."""
        turn = self.stream(text, **sampling)
        for _ in turn:
            pass
        return turn.result

    def stream(self, text: str, **sampling: Any) -> ChatTurn:
        """The answer to `text` piece by piece; leaving it early (`close()`, an interrupt) ends the turn there.

        An interrupt while `text` is read takes the turn back, if `undo` allows that.
        """
        settings: dict[str, Any] = {"ends": self._template.end_tokens()} | sampling
        Sampling(**settings)
        self.settle()
        exchange = Exchange(self._template, text, self.session.conversing, self.session.seen_tokens > 0)
        prompt = exchange.prompt
        mark = self.session.mark() if self._undo else None
        self.recall = None
        self._answering = True
        try:
            called = None if self._outgrows(prompt) else called_for(self.session, text, self._again)
            if called is not None and called.recall.shown:
                self.recall = called.recall
                turn = self._turn_with_passages(text, exchange, called.recall, settings)
            elif exchange.rewritten:
                turn = self._turn_beside(exchange, called, settings)
            else:
                turn = ChatTurn(self, self._answer_behind(self.session, prompt, called, settings))
        except BaseException:
            self._take_back(mark)
            raise
        self._remember(mark)
        self.turns += 1
        self._turn = turn
        return turn

    def _outgrows(self, prompt: list[int]) -> bool:
        """Whether a message leaves the window while it is read: then its last words are put to the voters behind it."""
        window = self.session.method.as_dict().get("window")
        return self.session.method.answers and window is not None and len(prompt) > max(window, ANSWERING_TOKENS)

    def _answer_behind(
        self, stream: WritingStream, prompt: list[int], called: CalledFor | None, settings: dict[str, Any]
    ) -> GenerationStream:
        """The answer of a stream behind a prompt, with the blocks that its message called for."""
        if called is None:
            return stream.stream(prompt, **settings)
        self.recall = called.held(stream)
        return written_behind(stream, prompt, settings)

    def _turn_with_passages(self, text: str, exchange: Exchange, found: Recall, settings: dict[str, Any]) -> ChatTurn:
        """The answer of a copy that reads the passages and the message; the session reads the message alone.

        Where no conversation stands before the message, the copy holds the passages alone, as for `Session.ask`.
        """
        if self.session.conversing:
            twin: WritingStream = self.session.fork()
            shown = Exchange(self._template, OTHER, True, True).prompt
            prompt = self._template.with_text(shown, asking.passage_ids(self.session, found.shown, text), text)
        else:
            prompt = asking.again_ids(self.session, text, found.shown, raw=False, shape=self._template)
            twin = asking.again_stream(self.session, len(prompt))
        try:
            answer = written_behind_passages(twin, prompt, settings)
        except BaseException:
            twin.close()
            raise
        return ChatTurn(self, answer, twin, exchange)

    def _turn_beside(self, exchange: Exchange, called: CalledFor | None, settings: dict[str, Any]) -> ChatTurn:
        """The answer of a copy, behind what is to stay of the prompt; the session then reads what is shown of it."""
        # What no answer changes is read once by the session itself, and the copy has it from there.
        exchange.read_lasting(self.session)
        twin = self.session.fork()
        try:
            answer = self._answer_behind(twin, exchange.prompt[exchange.lasting :], called, settings)
        except BaseException:
            twin.close()
            raise
        return ChatTurn(self, answer, twin, exchange)

    def settle(self) -> None:
        """Read what the template puts behind an answer, if that is still to be done; `save` a session after it."""
        # Let go of before it is read: an interrupt in between must not have the session read it twice.
        turn = self._turn
        self._turn = None
        if turn is not None:
            turn.hand_over()
        if self._answering:
            self.session.feed(self._template.closing(), source=PROMPT)
            self.session.conversing = True
            self._answering = False

    def complete(self, turn: ChatTurn) -> None:
        """End a turn, unless that was done."""
        if self._turn is turn:
            self.settle()

    def undo(self) -> bool:
        """Take the last turn back, question and answer; False where none can be."""
        if not self._marks:
            return False
        self._take_back(self._marks.pop())
        self.turns -= 1
        return True

    def reset(self) -> None:
        """Begin the conversation anew."""
        self._turn = None
        self.session.reset()
        while self._marks:
            self._marks.pop().close()
        self.turns = 0
        self._answering = False

    def _remember(self, mark: Snapshot | None) -> None:
        if mark is not None:
            self._marks.append(mark)
        if len(self._marks) > self._undo:
            self._marks.popleft().close()

    def _take_back(self, mark: Snapshot | None) -> None:
        if mark is not None:
            self._turn = None
            self.session.rewind(mark)
            mark.close()
            self._answering = False


class ChatTurn(Iterator[str]):
    """The pieces of an answer; the turn is completed in the session when they end or are left."""

    def __init__(
        self, chat: Chat, answer: GenerationStream, twin: WritingStream | None = None, exchange: Exchange | None = None
    ) -> None:
        self._chat = chat
        self._answer = answer
        self._twin = twin
        self._exchange = exchange

    def __next__(self) -> str:
        try:
            return next(self._answer)
        except StopIteration:
            self._chat.complete(self)
            raise

    def close(self) -> None:
        """End the answer here."""
        self._answer.close()
        self._chat.complete(self)

    def hand_over(self) -> None:
        """Let the session read what a copy of it has written, if that is still to be done."""
        twin = self._twin
        self._twin = None
        if twin is not None and self._exchange is not None:
            self._answer.close()
            written = self.result.token_ids
            twin.close()
            self._exchange.read(self._chat.session, written)

    @property
    def result(self) -> GenerationResult:
        """What was answered so far."""
        return self._answer.result
