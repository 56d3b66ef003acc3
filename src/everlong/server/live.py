"""Answers that go on without their client: begun once, followed from any tab, ended when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from everlong.server.asked import Answered
from everlong.server.errors import ApiError, api_error
from everlong.server.openai import finish_reason
from everlong.server.pieces import Piece, Progress, Tell
from everlong.server.streaming import PING_S
from everlong.server.worker import Left, Waited

MOST_ENDED = 256
"""Answers that can still be followed when they have ended, one a session."""
_LOOK_S = 0.05
"""Seconds between two looks at what is new: pieces that come faster are sent together."""


class LiveAnswer:
    """An answer while it is written: all of its text so far, and how it ended once it has."""

    def __init__(self, identity: str, said: str) -> None:
        self.identity = identity
        self.said = said
        self.text = ""
        self.ended: dict[str, Any] | None = None
        self.ticket: Waited | None = None
        self.progress: Progress | None = None
        self.stopped = False

    def tell(self, piece: Piece | Progress) -> None:
        """Take a piece of it, or how far its prompt is read; called in the engine's thread."""
        if isinstance(piece, Progress):
            self.progress = piece
        else:
            self.text += piece.text

    def end(self, future: Future[Answered]) -> None:
        """Take how it ended."""
        error = future.exception()
        if error is None:
            answered = future.result()
            finish = "cancelled" if self.stopped else finish_reason(answered.results[0])
            self.ended = {"type": "live.ended", "finish": finish, "usage": answered.usage}
        elif isinstance(error, Left):
            self.ended = {"type": "live.ended", "finish": "cancelled", "usage": None}
        else:
            self.ended = {"type": "live.failed"} | api_error(error).as_dict()

    def stop(self) -> None:
        """Tell it to end; what was written is kept."""
        self.stopped = True
        if self.ticket is not None:
            self.ticket.end()

    async def events(self, after: int) -> AsyncIterator[dict[str, Any] | None]:
        """What it was asked, its text behind the first `after` characters as it comes, and how it ended."""
        running = self.ended is None
        yield {"type": "live.begun", "id": self.identity, "message": self.said, "running": running}
        silent_s = 0.0
        told = None
        while True:
            # Looked at before the text: what is written before the end is sent before it.
            ended = self.ended
            text = self.text
            if len(text) > after:
                yield {"type": "live.text", "text": text[after:], "end": len(text)}
                after = len(text)
                silent_s = 0.0
            if ended is not None:
                yield ended
                return
            if not text and self.progress is not told and self.progress is not None:
                told = self.progress
                yield {"type": "live.progress"} | told.as_dict()
            await asyncio.sleep(_LOOK_S)
            silent_s += _LOOK_S
            if silent_s >= PING_S:
                silent_s = 0.0
                yield None


class LiveAnswers:
    """The newest answer of each session that was begun so, by the session's name in the store."""

    def __init__(self) -> None:
        self._answers: dict[str, LiveAnswer] = {}

    def begin(self, session: str, identity: str, said: str, submit: Callable[[Tell], Waited]) -> LiveAnswer:
        """Begin an answer; the one of this identity if it was begun before. ApiError where another is being written."""
        known = self._answers.get(session)
        if known is not None and known.identity == identity:
            return known
        if known is not None and known.ended is None:
            raise ApiError(
                409, "message: an answer is being written in this session; wait for it or stop it", "message", "busy"
            )
        answer = LiveAnswer(identity, said)
        answer.ticket = submit(answer.tell)
        self._answers.pop(session, None)
        self._answers[session] = answer
        answer.ticket.future.add_done_callback(answer.end)
        self._trim()
        return answer

    def of(self, session: str) -> LiveAnswer | None:
        """The newest answer of a session."""
        return self._answers.get(session)

    def running(self, session: str) -> LiveAnswer | None:
        """The answer that is being written in a session."""
        known = self._answers.get(session)
        return known if known is not None and known.ended is None else None

    def forget(self, session: str) -> None:
        """Let go of an answer that has ended."""
        self._answers.pop(session, None)

    def _trim(self) -> None:
        ended = [session for session, answer in self._answers.items() if answer.ended is not None]
        for session in ended[: max(0, len(ended) - MOST_ENDED)]:
            del self._answers[session]


async def nothing() -> AsyncIterator[dict[str, Any] | None]:
    """The events where no answer was begun since the server started."""
    yield {"type": "live.none"}
