"""Reading that is cut off: what was read is kept, and the command that goes on is named."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(AbstractContextManager["Stop"]):
    """Holds an interrupt, or a request to end, back until the chunk that is being read is whole.

    A second one ends the work at once: what came after the last checkpoint is then lost.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            heeded = (n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN)
            self._before = {n: signal.signal(n, self._note) for n in heeded}
        return self

    def __exit__(self, *exc: object) -> None:
        before = self._before
        self._before = {}
        for number, handler in before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self._asked is not None:
            self._end(number)
        self._asked = number
        print("\neverlong: stops after this chunk; once more to stop at once", file=sys.stderr, flush=True)

    def through(self, steps: Generator[T, None, None], tell: Callable[[T], None]) -> None:
        """Tell each of the steps; where the end was asked for they are closed, which keeps what was read."""
        for step in steps:
            tell(step)
            if self._asked is not None:
                steps.close()
                self._end(self._asked)

    @staticmethod
    def _end(number: int) -> NoReturn:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


@contextmanager
def told_when_cut_off(kept_tokens: Callable[[], int]) -> Iterator[None]:
    """Say on stderr what is kept, and which command goes on (the same one), where the block is cut off."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        command = shlex.join(["everlong", *sys.argv[1:]])
        said = f"everlong: {kept_tokens():,} tokens are kept; this goes on from there:\n  {command}"
        print(said, file=sys.stderr, flush=True)
        raise
