"""What the routes ask for, as jobs of the engine's thread: answers, sessions, documents."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from everlong.engine.budgets import planned_bytes
from everlong.engine.engine import Engine
from everlong.errors import EverlongError, one_line
from everlong.methods.base import Method
from everlong.models.load import Loaded
from everlong.server import tools
from everlong.server.answering import Turn
from everlong.server.asked import Answered, Asked
from everlong.server.continuing import Continuing, go_on
from everlong.server.conversations import Conversations
from everlong.server.errors import ApiError, refused
from everlong.server.joining import ApiCaller, Repeats, digest, other_request
from everlong.server.kept import KeptSessions
from everlong.server.messages import chain
from everlong.server.metrics import Metrics, Pulse
from everlong.server.notes import KnownTurn
from everlong.server.open_sessions import OpenSession
from everlong.server.pace import Pace
from everlong.server.pieces import Piece, Progress, Tell
from everlong.server.settings import ServerSettings
from everlong.server.worker import Job, Left, Ready, Ticket, Waited, Worker
from everlong.session.session import CHUNK_TOKENS, Session
from everlong.storage.record_cache import DEFAULT_BYTES
from everlong.text.chat_template import Message, message

logger = logging.getLogger(__name__)
MOST_TOKENS = 2**31 - 1
"""What is said of a context that nothing bounds."""
Answering = Generator[Ready | None, None, Answered]


class Service:
    """One model, its engine, and all sessions that it serves."""

    def __init__(
        self, loaded: Loaded, method: Method, store: Path, settings: ServerSettings, chunk: int = CHUNK_TOKENS
    ) -> None:
        self.loaded = loaded
        self.method = method
        self.settings = settings
        self.chunk = chunk
        self.pace = Pace(settings.max_gap)
        self.conversations = Conversations()
        self.engine = Engine()
        self.worker = Worker(self.engine, self.pace)
        self.kept = KeptSessions(loaded, method, store, chunk, self.worker.beside)
        self.metrics = Metrics()
        self.repeats = Repeats()
        self.context_length = 0
        """Tokens that a session can take, as far as the disk has room for them."""
        self.used_bytes = 0
        self._memory = settings.memory_bytes or _half_of_memory()
        self.kept.open.pool.limit = min(DEFAULT_BYTES, self._memory // 8)
        self._threads = torch.get_num_threads()
        self._anchor: Session | None = None
        self._parking = False
        self.worker.submit(self._begin).future.result()
        self._watch()

    def submit(self, job: Callable[[], Job]) -> Ticket:
        """Hand a job in; ApiError where too many are waiting."""
        if self.worker.jobs >= self.settings.limits.queue:
            raise ApiError(
                429, "too many requests are waiting; try again later", code="overloaded", headers={"Retry-After": "5"}
            )
        return self.worker.submit(job)

    def close(self) -> None:
        """End all answers and keep all sessions."""
        self.worker.stop(self._park)

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("jobs", "Requests that are being worked on or wait.", lambda: self.worker.jobs)
        watch("engine_alive", "Whether the engine runs.", lambda: self.worker.alive)
        watch("open_sessions", "Sessions of the store that are open.", lambda: len(self.kept.open))
        watch("held_conversations", "Turns of conversations that can be gone on from.", lambda: len(self.conversations))
        watch("session_bytes", "What open sessions take in memory.", lambda: self.used_bytes)
        watch("step_tokens", "Tokens of a step at most.", lambda: self.pace.tokens)

    def _begin(self) -> Job:
        # A thread of its own begins with torch's own number of threads.
        torch.set_num_threads(self._threads)
        # One session stays open, so that the model stays attached.
        self._anchor = self.opened()
        free = shutil.disk_usage(self.kept.library.folder).free
        self.context_length = room_tokens(self._anchor, free)
        return
        yield

    def _park(self) -> None:
        self.conversations.close()
        self.kept.close()
        if self._anchor is not None:
            self._anchor.close()

    def answer(self, asked: Asked, tell: Tell, session: str | None, caller: ApiCaller) -> Waited:
        """The answers to the messages: in a session that is kept under a name, or found by its messages."""
        if asked.tools and not tools.has_place(str(self.loaded.tokenizer.chat_template)):
            raise refused("tools", "the model's chat template has no place for them; leave them out")
        how = asked.sampling, asked.n, asked.again, asked.progress
        content = digest(session, chain(asked.messages, _begun(caller.owner, asked))[-1], *how)
        if session is None:
            return self._joined(
                caller, content, [asked], tell, lambda told: self._in_conversation(asked, told, caller.owner)
            )
        again = None if caller.identity is None else (caller.identity, content)
        return self._joined(caller, content, None, tell, lambda told: self._in_session(session, asked, told, again))

    def go_on(self, wanted: Sequence[Continuing], tell: Tell, session: str | None, caller: ApiCaller) -> Waited:
        """Texts written behind prompts: each in a session of its own that is kept nowhere, or in a kept one."""
        facts = [(asked.prompt, asked.sampling, asked.n, asked.echo, asked.writes) for asked in wanted]
        content = digest(session, caller.owner, facts)
        if session is None:
            return self._joined(caller, content, wanted, tell, lambda told: self._all_go_on(wanted, told))
        return self._joined(
            caller,
            content,
            None,
            tell,
            lambda told: self.with_session(session, lambda kept: self._goes_on(kept, wanted[0], told), create=True),
        )

    def _joined(
        self,
        caller: ApiCaller,
        content: str,
        free: Sequence[Asked | Continuing] | None,
        tell: Tell,
        job: Callable[[Tell], Job],
    ) -> Waited:
        """A job, or that of the same request, which came before. `free`: what is asked outside of any session.

        There the same content asked at the same time is a repetition only where it can have one answer alone.
        """
        joins = free is None or all(is_settled(asked.sampling) for asked in free)
        return self.repeats.answer(caller, content, joins, tell, lambda told: self.submit(lambda: job(told)))

    def _goes_on(self, session: Session, asked: Continuing, tell: Tell) -> Job:
        return [(yield from go_on(self.engine, self.pace, session, asked, self._timed(tell), 0))]

    def _all_go_on(self, wanted: Sequence[Continuing], tell: Tell) -> Job:
        tickets = []
        for n, asked in enumerate(wanted):
            tickets.append(Ticket(partial(self._one_goes_on, asked, tell, n * asked.n)))
            self.worker.add(tickets[-1])
        try:
            yield lambda: all(ticket.future.done() for ticket in tickets)
        except Left:
            for ticket in tickets:
                ticket.leave()
            yield lambda: all(ticket.future.done() for ticket in tickets)
        found = [ticket.future.result() for ticket in tickets]
        for continued in found:
            self.metrics.read_tokens.inc(continued.prompt_tokens)
            self.metrics.written_tokens.inc(continued.written_tokens)
        return found

    def _one_goes_on(self, asked: Continuing, tell: Tell, first: int) -> Job:
        with self.opened() as session:
            return (yield from go_on(self.engine, self.pace, session, asked, self._timed(tell), first))

    def opened(self) -> Session:
        """A new session that is kept nowhere."""
        return Session(self.loaded, self.method, self.chunk)

    def _in_conversation(self, asked: Asked, tell: Tell, owner: str) -> Answering:
        hashes = chain(asked.messages, _begun(owner, asked))
        known, held = self.conversations.find(hashes)
        session = self.opened() if held is None else held.session.fork()
        try:
            answered = yield from self._turn(session, replace(asked, messages=asked.messages[known:]), tell)
        except BaseException:
            session.close()
            raise
        after = chain([_answer(asked, answered)], hashes[-1])[0]
        self.conversations.keep(session, after, held)
        self.trim()
        return answered

    def _in_session(self, name: str, asked: Asked, tell: Tell, again: tuple[str, str] | None) -> Answering:
        yield from self.kept.take(name)
        try:
            kept = yield from self._opened(name)
            yield from self.kept.settle(name)
            if again is not None and again[0] in kept.replies:
                return _told_again(kept.replies[again[0]], again[1], tell)
            with_tools = digest(asked.tools) if asked.tools else ""
            if kept.session.conversing and with_tools not in ("", kept.tools):
                raise refused("tools", "this session was begun with other tools, or none; name a new session for these")
            begun, new = _unread(kept.turns, asked.messages)
            begin = kept.session.seen_tokens
            answered = yield from self._turn(kept.session, replace(asked, messages=new), tell)
            after = chain([*new, _answer(asked, answered)], begun)[-1]
            first = [] if kept.turns else [KnownTurn(begin, chain(asked.messages[:1])[0])]
            lengths = [(kind, len(ids)) for kind, ids in answered.runs]
            note: dict[str, Any] = {
                "turns": [*first, KnownTurn(kept.session.seen_tokens, after, begin, lengths)],
                "citations": [asdict(cited) for cited in answered.citations],
                "passages": list(answered.passages),
                "tools": kept.tools or with_tools,
            }
            if again is not None:
                note["replies"] = {again[0]: {"content": again[1], "answered": answered.as_dict()}}
            yield from self.kept.acknowledge(name, answered.runs, note)
        except BaseException:
            self.kept.open.let_go(name)
            raise
        finally:
            self.kept.release(name)
        self._keep_up(name)
        return answered

    def _keep_up(self, name: str) -> None:
        """Write the state of a session beside the engine's steps, if it is time to."""
        if self.kept.due(name):
            self.worker.add(Ticket(partial(self._checkpoint, name)))
        self.trim()

    def _checkpoint(self, name: str) -> Job:
        yield from self.kept.take(name)
        try:
            if self.kept.due(name):
                yield from self.kept.checkpoint(name)
        except EverlongError as error:
            # What was acknowledged is in the journal; the next turn tries again.
            logger.warning("session %s: no checkpoint (%s)", name, one_line(error))
        finally:
            self.kept.release(name)
        self.trim()

    def _turn(self, session: Session, asked: Asked, tell: Tell) -> Answering:
        before = session.report().dropped_tokens
        answered = yield from Turn(self.engine, self.pace, session, asked, self._timed(tell)).run()
        metrics = self.metrics
        metrics.read_tokens.inc(answered.prompt_tokens - answered.cached_tokens)
        metrics.reused_tokens.inc(answered.cached_tokens)
        metrics.written_tokens.inc(sum(len(result.token_ids) for result in answered.results))
        metrics.dropped_tokens.inc(max(0, answered.report["dropped_tokens"] - before))
        return answered

    def _timed(self, tell: Tell) -> Tell:
        pulse = Pulse(self.metrics)

        def told(piece: Piece | Progress) -> None:
            if isinstance(piece, Piece) and piece.index == 0:
                pulse.beat()
            tell(piece)

        return told

    def with_session(self, name: str, work: Callable[[Session], Job], create: bool = False) -> Job:
        """A job with the session of this name, which must exist unless it is to be made; what it read is kept."""
        yield from self.kept.take(name)
        try:
            if not create:
                self.kept.entry(name)
            kept = yield from self._opened(name)
            result = yield from work(kept.session)
            yield from self.kept.checkpoint(name)
        except (EverlongError, OSError):
            self.kept.open.let_go(name)
            raise
        finally:
            self.kept.release(name)
        self.trim()
        return result

    def with_store(self, names: Sequence[str], work: Callable[[], Any]) -> Job:
        """A job with the files of sessions, which are parked for it."""
        taken: list[str] = []
        try:
            # Always in the same order, so that no two jobs wait for each other.
            for name in sorted(set(names)):
                yield from self.kept.take(name)
                taken.append(name)
                yield from self.kept.park(name)
            return work()
        finally:
            for name in taken:
                self.kept.release(name)

    def trim(self) -> None:
        """Close what was used longest ago, until all open sessions fit the memory they may take."""
        self.conversations.trim(max(0, self._memory - self.kept.open.bytes))
        if self._over(0) and not self._parking:
            self._parking = True
            self.worker.add(Ticket(self._trimmed))

    def _trimmed(self) -> Job:
        try:
            yield from self._make_room(0)
        finally:
            self._parking = False

    def _over(self, wanted: int) -> bool:
        self.used_bytes = self.conversations.bytes + self.kept.open.bytes
        return self.used_bytes + wanted > self._memory

    def _make_room(self, wanted: int) -> Job:
        """Park the sessions used longest ago, each written beside the engine's steps, until so many bytes are free."""
        if self._over(wanted):
            self.conversations.trim(max(0, self._memory - self.kept.open.bytes - wanted))
        while self._over(wanted) and (name := self.kept.idlest()) is not None:
            yield from self.kept.take(name)
            try:
                yield from self.kept.park(name)
            except EverlongError as error:
                logger.warning("session %s: cannot be parked (%s)", name, one_line(error))
                return
            finally:
                self.kept.release(name)

    def _opened(self, name: str) -> Generator[Ready | None, None, OpenSession]:
        """A session that was taken, open, with room for it."""
        if name not in self.kept.open:
            yield from self._make_room(self.kept.open.largest_bytes)
        return (yield from self.kept.opened(name, lambda: self.pace.piece))


def _answer(asked: Asked, answered: Answered) -> Message:
    """The first answer, with the calls in it where tools were offered, as a client sends it back."""
    text = answered.results[0].text
    return tools.said(text) if asked.tools else message("assistant", text)


def _begun(owner: str, asked: Asked) -> str:
    """What the hashes of a conversation begin with: whose it is, and which tools are offered in it."""
    return digest(owner, asked.tools) if asked.tools else owner


def is_settled(sampling: dict[str, Any]) -> bool:
    """Whether the same request has the same answer each time."""
    return sampling["temperature"] == 0 or sampling.get("seed") is not None


def _told_again(reply: dict[str, Any], content: str, tell: Tell) -> Answered:
    """An answer that was given before, to a request that came again after the server had been ended."""
    if reply["content"] != content:
        raise other_request()
    answered = Answered.from_dict(reply["answered"])
    for n, result in enumerate(answered.results):
        tell(Piece(n, result.text, result.odds))
    return answered


def _unread(turns: Sequence[KnownTurn], messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The hash of the turns that a session has read, and which of the messages are new to it.

    All are, unless they begin with the whole conversation that the session holds, or with its system prompt. The first
    of the turns is the hash of the session's first message alone.
    """
    if not turns:
        return "", messages
    last = turns[-1].chain
    hashes = chain(messages)
    for n in range(len(hashes) - 1, 0, -1):
        if hashes[n - 1] == last:
            return last, messages[n:]
    repeated = len(messages) > 1 and messages[0]["role"] == "system" and hashes[0] == turns[0].chain
    return last, messages[1:] if repeated else messages


def room_tokens(session: Session, free_bytes: int) -> int:
    """How many tokens a session can read: what the model was trained for, or what the disk has room for."""
    trained = getattr(session.model.config.get_text_config(), "max_position_embeddings", None)
    if session.method.name == "dense" and trained:
        return int(trained)
    if not session.method.answers:
        return MOST_TOKENS
    one, two = (planned_bytes(session.runner, n * 2**20, session.chunk)["disk"] for n in (1, 2))
    return min(MOST_TOKENS, free_bytes * 2**20 // max(1, two - one))


def _half_of_memory() -> int:
    """Half of what memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
