"""A server in a process of its own that is killed at a place: before, within or behind what it writes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from everlong.library import checkpoint, state_file
from everlong.library.checkpoint import Checkpointer
from everlong.library.journal import Journal
from everlong.library.library import Library
from everlong.server import open_sessions, run
from everlong.server.service import Service
from everlong.server.settings import ServerSettings

SETTINGS = ServerSettings(port=0)
PLACES: dict[str, tuple[Any, str, bool]] = {
    "before a turn is noted": (Journal, "append", False),
    "behind a turn that was noted": (Journal, "append", True),
    "before the turns are noted in the database": (Library, "note", False),
    "before a state is written": (state_file, "write", False),
    "behind a state that was written": (state_file, "write", True),
    "before a checkpoint is named": (Checkpointer, "_name", False),
    "behind a checkpoint that was named": (Checkpointer, "_name", True),
    "behind a journal that was emptied": (Journal, "clear", True),
    "before rows that are free are looked for": (checkpoint.Checkpointer, "_settle", False),
}
"""Where to kill: whose function, its name, and whether once it has returned."""
TORN = "within a turn that is noted"


def _killed(place: str, times: int) -> None:
    """Let this process be killed when it comes to a place so many times."""
    left = [times]

    def counted() -> bool:
        left[0] -= 1
        return left[0] == 0

    if place == TORN:
        append = Journal.append

        def torn(journal: Journal, record: Any) -> None:
            if counted():
                with journal.path.open("ab") as file:
                    file.write(record.packed()[:-9])
                os.kill(os.getpid(), signal.SIGKILL)
            append(journal, record)

        Journal.append = torn
        return
    owner, name, behind = PLACES[place]
    function = getattr(owner, name)

    def wrapped(*args: Any, **fields: Any) -> Any:
        dies = counted()
        if dies and not behind:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*args, **fields)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, wrapped)


@contextmanager
def server(begin: Callable[[], Service], place: str = "", times: int = 1) -> Iterator[tuple[str, int]]:
    """A server in a forked process, killed at a place or at the end; its address and its process."""
    with run.bound(SETTINGS) as sock:
        url = run.address(sock)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                if place:
                    _killed(place, times)
                run.serve(begin(), sock, lambda: None)
            os._exit(0)
    try:
        _wait(url)
        yield url, child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _wait(url: str) -> None:
    with client() as asking:
        for _ in range(400):
            with contextlib.suppress(httpx.HTTPError):
                asking.get(f"{url}/healthz")
                return
            time.sleep(0.05)


def client() -> httpx.Client:
    """What sends requests, without certificates, which take their time to be read."""
    return httpx.Client(verify=False, timeout=20)


def service(model: Any, method: Any, store: Path, state_tokens: int, **settings: Any) -> Service:
    """A service that writes a state every so many tokens."""
    open_sessions.STATE_TOKENS = state_tokens
    return Service(model, method, store, ServerSettings(port=0, **settings))


class Nursery:
    """A process without threads that starts the server, kills it and starts it again, always at one address."""

    def __init__(self, begin: Callable[[], Service]) -> None:
        with run.bound(SETTINGS) as sock:
            self.url = run.address(sock)
            # Heard from the beginning: whoever comes while the server is down waits for the next.
            sock.listen(256)
            to_read, self._write = os.pipe()
            self._read, to_write = os.pipe()
            self._process = os.fork()
            if not self._process:
                _nurse(begin, sock, to_read, to_write)
                os._exit(0)
        os.close(to_read)
        os.close(to_write)
        self.server = self._next()

    def kill(self) -> None:
        """kill -9, and the next."""
        os.write(self._write, b"k")
        self.server = self._next()

    def close(self) -> None:
        """End the last server."""
        os.write(self._write, b"q")
        os.waitpid(self._process, 0)
        os.close(self._write)
        os.close(self._read)

    def resident_bytes(self) -> int:
        """What the server takes in memory."""
        return int(Path(f"/proc/{self.server}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _next(self) -> int:
        return int.from_bytes(os.read(self._read, 8), "little")


def _nurse(begin: Callable[[], Service], sock: Any, to_read: int, to_write: int) -> None:
    command = b"k"
    while command == b"k":
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                run.serve(begin(), sock, lambda: None)
            os._exit(0)
        os.write(to_write, child.to_bytes(8, "little"))
        command = os.read(to_read, 1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
