"""One thread owns the model: jobs are generators, which it advances between the steps of the engine."""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch

from everlong.engine.engine import Engine
from everlong.errors import EverlongError, ModelError, one_line
from everlong.server.pace import Pace

logger = logging.getLogger(__name__)

BESIDE_THREADS = 4
"""For what waits for disks: a turn that is noted waits for no state that is written."""
SWITCH_S = 0.0005
"""After so long a thread that computes in Python lets another go on; the engine's asks for that at each operation."""

Ready = Callable[[], bool]
Job = Generator[Ready | None, None, Any]
"""What is done in steps. It yields what tells whether it can go on, or None to be asked again after the next step."""


Beside = Callable[..., Job]
"""As `Worker.beside`."""


@runtime_checkable
class Waited(Protocol):
    """What somebody waits for: `future` has it."""

    @property
    def future(self) -> Future[Any]:
        """What it returns, or raises."""
        ...

    def leave(self) -> None:
        """Say that nobody waits for it here any more."""
        ...

    def end(self) -> None:
        """Let it end now, with what there is."""
        ...


class Left(Exception):
    """Raised inside a job when whoever asked for it has gone: it ends what it writes, and keeps it."""


@dataclass(eq=False)
class Ticket:
    """A job that was handed in; `future` has what it returns, or raises."""

    job: Callable[[], Job]
    future: Future[Any] = field(default_factory=Future)
    gone: bool = False
    """Whether whoever asked has gone."""
    _running: Job | None = None
    _told: bool = False
    _ready: Ready | None = None

    def leave(self) -> None:
        """Say that nobody waits for it any more; from any thread."""
        self.gone = True

    end = leave

    def advance(self) -> bool:
        """Go on, if it can; whether it did."""
        leaves = self.gone and not self._told
        if not leaves and self._ready is not None and not self._ready():
            return False
        try:
            if self._running is None:
                self._running = self.job()
            self._told = self._told or leaves
            self._ready = self._running.throw(Left()) if leaves else next(self._running)
        except StopIteration as end:
            self.future.set_result(end.value)
        except BaseException as error:  # noqa: BLE001 (raised again where it is awaited)
            self.future.set_exception(error)
        return True

    @property
    def reads(self) -> bool:
        """Whether it does its work in pieces, one after each step, and waits for nothing else."""
        return self._running is not None and self._ready is None


class Worker:
    """Runs jobs in one thread, in which alone sessions are made, used and closed."""

    def __init__(self, engine: Engine, pace: Pace) -> None:
        self.engine = engine
        self.alive = True
        self._pace = pace
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        """Jobs that were handed in; None where the thread is only to look around."""
        self._disk = ThreadPoolExecutor(BESIDE_THREADS, "everlong-disk", partial(torch.set_num_threads, 1))
        self._tickets: list[Ticket] = []
        self._stopping = False
        self._last: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="everlong-engine", daemon=True)
        self._thread.start()

    @property
    def jobs(self) -> int:
        """How many are there that have not ended."""
        return len(self._tickets) + self._inbox.qsize()

    def submit(self, job: Callable[[], Job]) -> Ticket:
        """Hand a job in; from any thread."""
        ticket = Ticket(job)
        if not self.alive or self._stopping:
            ticket.future.set_exception(ModelError("the server is closing; try again when it is back"))
        else:
            self._inbox.put(ticket)
        return ticket

    def add(self, ticket: Ticket) -> None:
        """Take a job that another one hands in, in the engine's thread, however many are waiting."""
        self._tickets.append(ticket)

    def beside(self, work: Callable[[], Any], undo: Callable[[Any], None] | None = None) -> Job:
        """What `work` returns, done in another thread while the engine goes on; it is awaited whoever leaves.

        With `undo` whoever leaves has it undone, by what is given what `work` returned; else it is as if they stayed.
        """
        future = self._disk.submit(work)
        future.add_done_callback(lambda _: self._inbox.put(None))
        gone: Left | None = None
        while not future.done():
            try:
                yield future.done
            except Left as left:
                gone = left
        found = future.result()
        if gone is None or undo is None:
            return found
        undo(found)
        raise gone

    def stop(self, last: Callable[[], None]) -> None:
        """End all answers, wait until their jobs have kept what they wrote, and do what is `last` to be done."""
        self._last = last
        self._stopping = True
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))
        try:
            while self._turn():
                pass
            self._last()
        except BaseException:
            logger.exception("the engine died")
        finally:
            self.alive = False
            self._disk.shutdown()
            for ticket in self._tickets:
                if not ticket.future.done():
                    ticket.future.set_exception(ModelError("the engine died; see the server's log and start it again"))

    def _turn(self) -> bool:
        """Take what was handed in, make a step, let jobs go on; False when all has ended and it is to stop."""
        self._take(wait=not self._tickets and not self._stopping)
        if self._stopping:
            for ticket in self._tickets:
                ticket.leave()
            if not self._tickets:
                return False
        stepped = self._step()
        # One of those that read at a time, so that many of them hold nobody up longer than one does.
        reader = next((ticket for ticket in self._tickets if ticket.reads), None)
        moved = [ticket.advance() for ticket in list(self._tickets) if ticket is reader or not ticket.reads]
        if reader is not None:
            self._tickets.remove(reader)
            self._tickets.append(reader)
        self._tickets = [ticket for ticket in self._tickets if not ticket.future.done()]
        if not stepped and not any(moved) and self._tickets:
            self._take(wait=True, seconds=0.05)
        return True

    def _take(self, wait: bool, seconds: float | None = None) -> None:
        """What was handed in since; `wait` for the first of it, `seconds` at most."""
        try:
            while True:
                ticket = self._inbox.get(timeout=seconds) if wait else self._inbox.get_nowait()
                wait = False
                if ticket is not None:
                    self._tickets.append(ticket)
        except queue.Empty:
            return

    def _step(self) -> bool:
        """One forward; where it fails, each request by itself, so that one that cannot go on ends alone."""
        engine = self.engine
        # Those that were ended between two steps, whose streams may be closed already.
        engine.requests = {key: request for key, request in engine.requests.items() if not request.done}
        engine.tokens = self._pace.tokens
        try:
            with self._pace.timed(engine):
                return engine.step()
        except Exception as error:  # noqa: BLE001 (found again below, in the request that it is of)
            logger.warning("a step failed (%s); its requests go on one by one", one_line(error))
        requests = engine.requests
        for key, request in requests.items():
            engine.requests = {key: request}
            try:
                engine.step()
            except EverlongError as error:
                request.error = error
            except Exception as error:
                logger.exception("a request failed")
                request.error = ModelError(f"{type(error).__name__}: {one_line(error)}")
        engine.requests = {key: request for key, request in requests.items() if not request.done}
        return True
