"""One turn of a conversation as a job: messages read into a session, and answers written behind them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from everlong.engine.engine import Engine, GenerationRequest
from everlong.engine.stream import let_go
from everlong.engine.writing import ANSWERING_TOKENS, WritingStream
from everlong.errors import CapabilityError
from everlong.library.journal import Run
from everlong.server import passages_read, tools
from everlong.server.asked import Answered, Asked
from everlong.server.messages import fitted
from everlong.server.pace import Pace
from everlong.server.pieces import PieceTeller, ProgressTeller, Tell, finished
from everlong.server.worker import Beside, Ready
from everlong.session import asking
from everlong.session.called_for import passages_wanted
from everlong.session.citations import checked_against, drawn_on
from everlong.session.found import Found
from everlong.session.recall import Ballot, Candidate, Recall, scouted
from everlong.session.session import Session
from everlong.session.thoughts import Exchange
from everlong.text.chat_template import OTHER, Message, Template, message
from everlong.text.tokenize import token_ids
from everlong.text.transcript import ANSWER, PROMPT, Citation

MOST_CITATIONS = 16
Votes = Sequence[Candidate] | None
LONGEST_QUESTION = 1000
"""Characters of what is taken for the question in a message that is a long text."""


class Turn:
    """The messages of a request in the place that they have in a session, and their answers."""

    def __init__(self, engine: Engine, pace: Pace, beside: Beside, session: Session, asked: Asked, tell: Tell) -> None:
        self._engine = engine
        self._pace = pace
        self._beside = beside
        self._session = session
        self._asked = asked
        self._tell = tell
        self._begun = session.seen_tokens
        self._template = Template(session.tokenizer, tools=asked.tools)
        self._messages = fitted(self._given(), lambda fit: self._exchange(fit).prompt)
        self._here = self._exchange(self._messages)
        self._recall: Recall | None = None
        read = ProgressTeller(session, len(self._here.prompt), tell)
        self._look: Callable[[], None] = read if asked.progress else lambda: None

    def _given(self) -> Sequence[Message]:
        """The messages; earlier answers as they are where the template itself cuts thoughts out of them."""
        messages = self._asked.messages
        if "tool_calls" not in str(self._session.tokenizer.chat_template):
            messages = tools.flattened(messages)
        if not self._exchange([message("user", OTHER)]).rewritten:
            return messages
        return [{key: m[key] for key in m if key != "quoted"} for m in messages]

    def _exchange(self, messages: list[Message]) -> Exchange:
        return Exchange(self._template, messages, self._session.conversing, self._begun > 0)

    def run(self) -> Generator[Ready | None, None, Answered]:
        """The answers; the session then holds the messages and the first of them. Left where nothing was written."""
        prompt_tokens = self._begun + len(self._here.prompt)
        twins: list[WritingStream] = []
        read = 0
        try:
            if not self._outgrows and (yield from self._recalled()):
                prompt = self._passages_again(twins) if self._alone else self._with_passages(twins)
            elif self._here.rewritten or self._asked.n > 1 or self._outgrows:
                read = self._here.lasting
                # The question is read after it was put, so that it does not find itself.
                early = max(0, read - self._question_tokens) if self._outgrows else read
                yield from self.reading(self._here.prompt[:early], PROMPT)
                found = self._outgrows and (yield from self._recalled())
                yield from self.reading(self._here.prompt[early:read], PROMPT)
                if found:
                    prompt = self._passages_again(twins)
                else:
                    twins += [self._session.fork() for _ in range(self._asked.n)]
                    prompt = self._here.prompt[read:] or None
            else:
                prompt = self._here.prompt
            streams = twins or [self._session]
            votes = yield from self._voted(streams[0], prompt)
            requests = self._submitted(streams, prompt, votes)
            results = yield from finished(requests, self._look)
            citations = self._citations((twins or [self._session])[0], results[0].text)
            passages = self._passages((twins or [self._session])[0])
        finally:
            for twin in twins:
                twin.close()
        runs: list[Run] = [("prompt", self._here.prompt), ("answer", results[0].token_ids)]
        if twins:
            before, answer = self._to_read(results[0].token_ids)
            yield from self.reading(before[read:], PROMPT)
            yield from self.reading(answer, ANSWER)
            runs = [("text", before), ("answer", answer)]
        closing = self._template.closing()
        self._session.feed(closing, source=PROMPT)
        self._session.conversing = True
        runs.append(("text", closing))
        return Answered(results, prompt_tokens, self._begun, self._report(), citations, passages, runs)

    def _to_read(self, written: list[int]) -> tuple[list[int], list[int]]:
        """What the session reads of the messages and of their answer."""
        try:
            return self._here.to_read(written)
        except CapabilityError:
            # The template shows the messages in other tokens before such an answer: it stays as it was written.
            return self._here.prompt, written

    def reading(self, ids: Sequence[int], source: str) -> Generator[Ready | None, None, None]:
        """Let the session read ids, a piece between two steps."""
        done = 0
        while done < len(ids):
            piece = ids[done : done + self._pace.piece_of(self._session)]
            self._session.feed(piece, answering=source == ANSWER, source=source)
            done += len(piece)
            self._look()
            yield None

    @cached_property
    def _outgrows(self) -> bool:
        """Whether the messages leave the window while they are read, so that their own passages may be called for."""
        window = self._session.method.as_dict().get("window")
        return self._session.method.answers and window is not None and len(self._here.prompt) > window

    @cached_property
    def _question(self) -> str:
        """What is asked: the last message, or of one that is a long text its last words, or its first."""
        text = self._messages[-1]["content"].strip()
        if not self._outgrows:
            return text
        paragraphs = text.split("\n\n")
        short = [part for part in (paragraphs[-1], paragraphs[0]) if 0 < len(part) <= LONGEST_QUESTION]
        return short[0] if short else text[-LONGEST_QUESTION:].partition(" ")[2]

    @property
    def _question_tokens(self) -> int:
        """How many of the prompt's last tokens hold the question, at most."""
        _, after = self._template.around()
        return len(token_ids(self._session.tokenizer, f"\n\n{self._question}")) + len(after)

    @property
    def _alone(self) -> bool:
        """Whether it is the first question about texts that were read: no conversation stands between."""
        return not self._session.conversing and [m["role"] for m in self._messages] in (["user"], ["system", "user"])

    def _recalled(self) -> Generator[Ready | None, None, bool]:
        """Whether the last message calls for passages that are read again for the answer; finds them.

        The model reads the question here, and the votes are counted in another thread.
        """
        session = self._session
        again = passages_wanted(session, self._asked.again)
        if again == 0 or self._messages[-1]["role"] != "user" or not self._question:
            return False
        begun = time.perf_counter()
        ids = asking.question_ids(session, self._question)
        queries = scouted(session, ids)

        def counted() -> Recall:
            ballot = Ballot(session, ids, self._question, queries)
            return asking.to_show(Found(ballot), again, begun)

        found = yield from self._beside(counted, undo=_nothing)
        self._recall = found if found.shown else None
        return self._recall is not None

    def _voted(self, stream: WritingStream, prompt: list[int] | None) -> Generator[Ready | None, None, Votes]:
        """What a prompt recalls while it is read, counted in another thread; None where that is done as it is read."""
        if prompt is None or self._recall is not None or len(prompt) > ANSWERING_TOKENS or not asking.holds(stream):
            return None
        queries = scouted(stream, prompt)
        return (yield from self._beside(lambda: Ballot(stream, prompt, queries=queries).candidates(), undo=_nothing))

    def _with_passages(self, twins: list[WritingStream]) -> list[int]:
        """The prompt of copies of the session: passages in front of the last message."""
        assert self._recall is not None
        twins += [self._session.fork() for _ in range(self._asked.n)]
        shown = self._exchange([*self._messages[:-1], message("user", OTHER)]).prompt
        passages = asking.passage_ids(self._session, self._recall.shown, self._question)
        return self._template.with_text(shown, passages, self._messages[-1]["content"])

    def _passages_again(self, twins: list[WritingStream]) -> list[int]:
        """The prompt of short streams that hold nothing else: passages and the question."""
        assert self._recall is not None
        first = self._messages[0]
        system = first["content"] if first["role"] == "system" else None
        before, after = Template(self._session.tokenizer, system, tools=self._asked.tools).around()
        said = token_ids(self._session.tokenizer, f"\n\nQuestion: {self._question}")
        prompt = [*before, *asking.passage_ids(self._session, self._recall.shown, self._question), *said, *after]
        twins += [asking.again_stream(self._session, len(prompt)) for _ in range(self._asked.n)]
        return prompt

    def _citations(self, written_on: WritingStream, answer: str) -> list[Citation]:
        if self._recall is None:
            return drawn_on(written_on, MOST_CITATIONS) if self._session.method.answers else []
        return checked_against(self._session.transcript, self._recall, self._question, answer)[:MOST_CITATIONS]

    def _passages(self, written_on: WritingStream) -> list[dict[str, Any]]:
        if self._recall is None:
            return passages_read.attended(written_on)
        return passages_read.read_again(self._session, self._recall.shown, self._question)

    def _submitted(
        self, streams: Sequence[WritingStream], prompt: list[int] | None, votes: Votes
    ) -> list[GenerationRequest]:
        ends: dict[str, Any] = {"ends": self._template.end_tokens()}
        found: list[GenerationRequest] = []
        for n, stream in enumerate(streams):
            seed = self._asked.sampling.get("seed")
            own = {"seed": None if seed is None else seed + n}
            told = PieceTeller(n, self._tell, found)
            pieces = None if prompt is None else self._pieces(stream, prompt, votes)
            found.append(self._engine.submit(stream, told=told, pieces=pieces, **ends | self._asked.sampling | own))
        return found

    def _pieces(self, stream: WritingStream, prompt: list[int], votes: Votes) -> Iterator[tuple[Tensor, bool]]:
        """The prompt in pieces; beside passages that stand in it each layer chooses for itself, else what was voted."""
        if self._recall is not None:
            let_go(stream.runner)
        elif votes is not None:
            asking.hold(stream, prompt, votes)
        yield from stream.prompt_pieces(prompt, recall=self._recall is None and votes is None)

    def _report(self) -> dict[str, Any]:
        shown = () if self._recall is None else self._recall.shown
        return self._session.report().as_dict() | {"reread_tokens": sum(p.last - p.first for p in shown)}


def _nothing(_: object) -> None:
    """What is to be undone of a vote whose client has left: nothing was written."""
