"""One server's model, engine and sessions, put together; what its routes ask for is handed in here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from everlong.engine.engine import Engine
from everlong.methods.base import Method
from everlong.models.fingerprint import fingerprint
from everlong.models.load import Loaded
from everlong.server import tools
from everlong.server.answers import ConversationAnswers, KeptAnswers, beginning
from everlong.server.asked import Asked
from everlong.server.context_length import context_length
from everlong.server.continuing import Continuing
from everlong.server.conversations import Conversations
from everlong.server.errors import ApiError, refused
from everlong.server.joining import ApiCaller, Repeats, digest
from everlong.server.kept import KeptSessions
from everlong.server.messages import chain
from everlong.server.metrics import Metrics
from everlong.server.pace import Pace
from everlong.server.parking import Parking, half_of_memory
from everlong.server.pieces import Tell
from everlong.server.session_jobs import SessionJobs
from everlong.server.settings import ServerSettings
from everlong.server.worker import Job, Ticket, Waited, Worker
from everlong.server.writer import Writer
from everlong.session.session import CHUNK_TOKENS, Session
from everlong.storage.record_cache import DEFAULT_BYTES


class Service:
    """One model, its engine, and all sessions that it serves."""

    def __init__(
        self, loaded: Loaded, method: Method, store: Path, settings: ServerSettings, chunk: int = CHUNK_TOKENS
    ) -> None:
        # Nobody changes the model or its tokenizer while it is served.
        loaded = replace(loaded, identity=fingerprint(loaded.model, loaded.tokenizer))
        self.loaded = loaded
        self.method = method
        self.settings = settings
        self.chunk = chunk
        self.pace = Pace(settings.max_gap)
        self.metrics = Metrics()
        self.context_length = 0
        """Tokens that a session can take, as far as the disk has room for them."""
        self.conversations = Conversations()
        engine = Engine()
        self.worker = Worker(engine, self.pace)
        self.kept = KeptSessions(loaded, method, store, chunk, self.worker.beside)
        memory_bytes = settings.memory_bytes or half_of_memory()
        self.kept.open.pool.limit = min(DEFAULT_BYTES, memory_bytes // 8)
        self.parking = Parking(memory_bytes, self.conversations, self.kept, self.worker)
        self.jobs = SessionJobs(self.kept, self.parking, self.worker, self.pace)
        self.writer = Writer(engine, self.pace, self.worker, self.metrics, self._opened)
        self._in_conversations = ConversationAnswers(self.writer, self.conversations, self.parking, self._opened)
        self._in_kept = KeptAnswers(self.writer, self.kept, self.jobs)
        self._repeats = Repeats()
        self._threads = torch.get_num_threads()
        self._anchor: Session | None = None
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
        watch("session_bytes", "What open sessions take in memory.", lambda: self.parking.used_bytes)
        watch("step_tokens", "Tokens of a step at most.", lambda: self.pace.tokens)

    def _begin(self) -> Job:
        # A thread of its own begins with torch's own number of threads.
        torch.set_num_threads(self._threads)
        # One session stays open, so that the model stays attached.
        self._anchor = self._opened()
        free = shutil.disk_usage(self.kept.library.folder).free
        self.context_length = context_length(self._anchor, free)
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
        content = digest(session, chain(asked.messages, beginning(caller.owner, asked))[-1], *how)
        if session is None:
            return self._joined(
                caller, content, [asked], tell, lambda told: self._in_conversations.answer(asked, told, caller.owner)
            )
        again = None if caller.identity is None else (caller.identity, content)
        return self._joined(caller, content, None, tell, lambda told: self._in_kept.answer(session, asked, told, again))

    def go_on(self, wanted: Sequence[Continuing], tell: Tell, session: str | None, caller: ApiCaller) -> Waited:
        """Texts written behind prompts: each in a session of its own that is kept nowhere, or in a kept one."""
        facts = [(asked.prompt, asked.sampling, asked.n, asked.echo, asked.writes) for asked in wanted]
        content = digest(session, caller.owner, facts)
        if session is None:
            return self._joined(caller, content, wanted, tell, lambda told: self.writer.all_go_on(wanted, told))

        def in_kept(tell: Tell) -> Job:
            return self._in_kept.go_on(session, lambda kept: self.writer.go_on(kept, wanted[0], tell))

        return self._joined(caller, content, None, tell, in_kept)

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
        return self._repeats.answer(caller, content, joins, tell, lambda told: self.submit(lambda: job(told)))

    def _opened(self) -> Session:
        """A new session that is kept nowhere."""
        return Session(self.loaded, self.method, self.chunk)


def is_settled(sampling: dict[str, Any]) -> bool:
    """Whether the same request has the same answer each time."""
    return sampling["temperature"] == 0 or sampling.get("seed") is not None
