"""A reply to a question while it is written: its text, what came back for it, and the passages to check it against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from everlong.session import asking
from everlong.session.asking import Posed
from everlong.session.citations import checked_against, drawn_on
from everlong.session.quotations import Quotation, quotations
from everlong.text.transcript import ANSWER, PROMPT, Citation

if TYPE_CHECKING:
    from everlong.cache.report import MemoryReport
    from everlong.engine.generation import GenerationResult, GenerationStream
    from everlong.engine.writing import WritingStream

CHOOSE_TOKENS = 32
"""While a reply is written in the blocks' way, blocks are chosen again behind so many tokens of it, with them."""


class Reply(Iterator[str]):
    """A reply as pieces of text while it is written; `result`, `recall` and `citations` speak of all so far."""

    def __init__(
        self, session: WritingStream, posed: Posed, question: str, raw: bool, keep: bool, **sampling: Any
    ) -> None:
        self._session = session
        self._posed = posed
        self._keep = keep
        self._question = question
        self._raw = raw
        self.recall = posed.recall
        ends = {} if raw else {"ends": asking.template(session).end_tokens()}
        self._answer: GenerationStream = posed.session.stream(None, **ends | sampling)
        if self.recall is not None and self.recall.way == "blocks":
            self._answer.every(CHOOSE_TOKENS, self._choose_again)
        self._citations: list[Citation] | None = None
        self._report: MemoryReport | None = None
        self.outgrown_tokens = 0
        """Tokens of what was read again that had left the window before the reply was whole."""

    def __next__(self) -> str:
        try:
            return next(self._answer)
        except StopIteration:
            self.close()
            raise

    def _choose_again(self, written: Sequence[int]) -> None:
        """Choose blocks for the question together with what was written last; the recall tells what came new."""
        assert self.recall is not None
        asked = [*asking.question_ids(self._session, self._question), *written[-CHOOSE_TOKENS:]]
        more = asking.choose(self._session, self._posed.session, asked, self._question)
        before = self.recall.shown
        new = [p for p in more.shown if all(p.first >= old.last or p.last <= old.first for old in before)]
        blocks = dict.fromkeys((*self.recall.blocks, *more.blocks))
        seconds = self.recall.seconds + more.seconds
        self.recall = replace(self.recall, shown=(*before, *new), blocks=tuple(blocks), seconds=seconds)

    @property
    def text(self) -> str:
        """The whole reply; writes what is not written yet."""
        for _ in self:
            pass
        return self.result.text

    @property
    def result(self) -> GenerationResult:
        """What was written so far."""
        return self._answer.result

    def citations(self, top: int = 5) -> list[Citation]:
        """The passages that the reply can be checked against, best first; none where no passage stands out.

        Those that are nearly as good as the best one, with their shares of the vote (together 1); first the one that
        has what the reply says and the question does not.
        """
        if self._citations is None:
            self._citations = self._cited()
        return self._citations[:top]

    def _cited(self) -> list[Citation]:
        if self.recall is None:
            return drawn_on(self._posed.session, 16) if self._session.method.answers else []
        return checked_against(self._session.transcript, self.recall, self._question, self.result.text)

    @property
    def quotations(self) -> list[Quotation]:
        """What the reply quotes of some length, each looked up in what the session has read."""
        return quotations(self._session.transcript, self.result.text, self._question)

    @property
    def report(self) -> MemoryReport:
        """That of the session that was asked, with what was read again for the reply."""
        return self._reported() if self._report is None else self._report

    def _reported(self) -> MemoryReport:
        shown = self.recall.shown if self.recall is not None and self.recall.way == "again" else ()
        asked = self._session if shown else self._posed.session
        return replace(asked.report(), reread_tokens=sum(p.last - p.first for p in shown))

    def close(self) -> None:
        """End the reply here; a session that is to keep question and reply reads them now."""
        self._answer.close()
        if self._report is not None:
            return
        # While the copy that wrote the reply is open, and before the session has read it.
        self._citations = self._cited()
        if self._keep:
            self._remember()
        self._report = self._reported()
        if self.recall is not None and self.recall.way == "again":
            self.outgrown_tokens = self._posed.session.report().dropped_tokens
        self._posed.__exit__()

    def _remember(self) -> None:
        """Let the session read question and reply as a turn of a conversation, as far as it has not."""
        session = self._session
        written = self.result.token_ids
        if self._raw:
            if self._posed.owned:
                session.feed(self._question, source=PROMPT)
                session.feed(torch.tensor(written, dtype=torch.int64), source=ANSWER)
            return
        if self._posed.owned:
            asking.exchange(session, self._question).read(session, written)
        session.feed(asking.template(session).closing(), source=PROMPT)
        session.conversing = True
