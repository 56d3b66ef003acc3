"""What is written in sessions by one engine: turns of conversations and texts that go on, timed and counted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial

from everlong.engine.engine import Engine
from everlong.server.answering import Turn
from everlong.server.asked import Answered, Asked
from everlong.server.continuing import Continued, Continuing, go_on
from everlong.server.metrics import Metrics, Pulse
from everlong.server.pace import Pace
from everlong.server.pieces import Piece, Progress, Tell
from everlong.server.worker import Job, Left, Ready, Ticket, Worker
from everlong.session.session import Session

Answering = Generator[Ready | None, None, Answered]


class Writer:
    """Writes in sessions of one model; `opened` gives a new one that is kept nowhere."""

    def __init__(
        self, engine: Engine, pace: Pace, worker: Worker, metrics: Metrics, opened: Callable[[], Session]
    ) -> None:
        self._engine = engine
        self._pace = pace
        self._worker = worker
        self._metrics = metrics
        self._opened = opened

    def turn(self, session: Session, asked: Asked, tell: Tell) -> Answering:
        """The answers to messages, in a session that holds them and the first of the answers then."""
        before = session.report().dropped_tokens
        answered = yield from Turn(
            self._engine, self._pace, self._worker.beside, session, asked, self._timed(tell)
        ).run()
        metrics = self._metrics
        metrics.read_tokens.inc(answered.prompt_tokens - answered.cached_tokens)
        metrics.reused_tokens.inc(answered.cached_tokens)
        metrics.written_tokens.inc(sum(len(result.token_ids) for result in answered.results))
        metrics.dropped_tokens.inc(max(0, answered.report["dropped_tokens"] - before))
        return answered

    def go_on(self, session: Session, asked: Continuing, tell: Tell) -> Job:
        """The texts written behind a prompt, as the only one of a list, in a session that holds both then."""
        return [(yield from self._behind(session, asked, tell, 0))]

    def all_go_on(self, wanted: Sequence[Continuing], tell: Tell) -> Job:
        """The texts written behind several prompts at once, each in a session that is kept nowhere."""
        tickets = []
        for n, asked in enumerate(wanted):
            tickets.append(Ticket(partial(self._one_goes_on, asked, tell, n * asked.n)))
            self._worker.add(tickets[-1])
        try:
            yield lambda: all(ticket.future.done() for ticket in tickets)
        except Left:
            for ticket in tickets:
                ticket.leave()
            yield lambda: all(ticket.future.done() for ticket in tickets)
        found = [ticket.future.result() for ticket in tickets]
        for continued in found:
            self._metrics.read_tokens.inc(continued.prompt_tokens)
            self._metrics.written_tokens.inc(continued.written_tokens)
        return found

    def _one_goes_on(self, asked: Continuing, tell: Tell, first: int) -> Job:
        with self._opened() as session:
            return (yield from self._behind(session, asked, tell, first))

    def _behind(
        self, session: Session, asked: Continuing, tell: Tell, first: int
    ) -> Generator[Ready | None, None, Continued]:
        return go_on(self._engine, self._pace, session, asked, self._timed(tell), first)

    def _timed(self, tell: Tell) -> Tell:
        pulse = Pulse(self._metrics)

        def told(piece: Piece | Progress) -> None:
            if isinstance(piece, Piece) and piece.index == 0:
                pulse.beat()
            tell(piece)

        return told
