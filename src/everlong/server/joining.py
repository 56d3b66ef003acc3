"""Requests that are made again: they join the first, and nothing is read twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from everlong.server.errors import refused
from everlong.server.pieces import Piece, Progress, Tell
from everlong.server.worker import Waited

KEY_HEADER = "idempotency-key"
MOST_KEYS = 256
"""Answers that are kept by their keys for requests that come again."""


@dataclass(frozen=True)
class ApiCaller:
    """Who asks: a stand-in for the API key, the Idempotency-Key, and whether the client says that it asks again."""

    owner: str = ""
    key: str | None = None
    retries: bool = False

    @property
    def identity(self) -> str | None:
        """What the key stands for: each API key has its own."""
        return None if self.key is None else digest(self.owner, self.key)


def digest(*facts: Any) -> str:
    """What tells one request from another."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()


@dataclass(eq=False)
class SharedAnswer:
    """One answer and all who wait for it."""

    content: str
    keyed: bool
    ticket: Waited | None = None
    _pieces: list[Piece | Progress] = field(default_factory=list)
    _tells: list[Tell] = field(default_factory=list)
    _waiting: int = 0
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, piece: Piece | Progress) -> None:
        """Tell all a piece, and whoever comes later."""
        with self._lock:
            self._pieces.append(piece)
            for tell in self._tells:
                tell(piece)

    def join(self, tell: Tell) -> Waited:
        """Tell all pieces so far, and those that come."""
        with self._lock:
            for piece in self._pieces:
                tell(piece)
            self._tells.append(tell)
            self._waiting += 1
        return _Joined(self)

    def leave(self) -> None:
        """One of those who wait has gone; the last ends the answer, unless a key says that it is asked for again."""
        self._waiting -= 1
        if not self._waiting and not self.keyed:
            self.end()

    def end(self) -> None:
        """End the answer."""
        assert self.ticket is not None
        self._ended = True
        self.ticket.end()

    @property
    def useful(self) -> bool:
        """Whether a request that comes again gets what it wants of it."""
        assert self.ticket is not None
        future = self.ticket.future
        if not future.done():
            # One that was told to end has less than what is wanted, or nothing.
            return not self._ended
        return self.keyed and future.exception() is None


class _Joined:
    """One who waits for a shared answer."""

    def __init__(self, shared: SharedAnswer) -> None:
        self._shared = shared
        self._gone = False
        assert shared.ticket is not None
        self.future: Future[Any] = shared.ticket.future

    def leave(self) -> None:
        """Say that the client has gone."""
        if not self._gone:
            self._gone = True
            self._shared.leave()

    def end(self) -> None:
        """End the answer for all."""
        self._shared.end()


class Repeats:
    """The answers that are being written, and those whose requests came with a key. For the loop's thread alone."""

    def __init__(self) -> None:
        self._running: dict[str, SharedAnswer] = {}
        self._keyed: OrderedDict[str, SharedAnswer] = OrderedDict()

    def answer(
        self, caller: ApiCaller, content: str, joins: bool, tell: Tell, begin: Callable[[Tell], Waited]
    ) -> Waited:
        """That of the first request of this key, or with the same content; or one that is begun now.

        Not `joins`: the same content is no sign of a request that came again.
        """
        identity = caller.identity
        shared = None
        if identity is not None:
            shared = self._keyed.get(identity)
            if shared is not None and shared.content != content:
                raise other_request()
        elif joins or caller.retries:
            shared = self._running.get(content)
        if shared is None or not shared.useful:
            shared = self._begun(identity, content, begin)
        return shared.join(tell)

    def _begun(self, identity: str | None, content: str, begin: Callable[[Tell], Waited]) -> SharedAnswer:
        shared = SharedAnswer(content, identity is not None)
        shared.ticket = begin(shared.tell)
        self._running = {key: other for key, other in self._running.items() if other.useful}
        self._running[content] = shared
        if identity is not None:
            self._keyed[identity] = shared
            while len(self._keyed) > MOST_KEYS:
                self._keyed.popitem(last=False)
        return shared


def other_request() -> Exception:
    """What is said of a key that came with another request before."""
    return refused("Idempotency-Key", "was used for another request before; use a new one for each")
