"""What a command says while it runs: notes and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from everlong.cli.amounts import duration
from everlong.cli.groups import Output

_LINE_EVERY_S = 5.0
Advance = Callable[[int, str], None]
"""Told how much is done, and a few words on how it goes."""


@dataclass(frozen=True)
class Console:
    """Where a command's words go; `quiet` and `json` leave nothing on stderr but warnings."""

    quiet: bool = False
    json: bool = False

    @classmethod
    def of(cls, given: Output) -> Console:
        """The console that the options of a command ask for."""
        return cls(given.quiet, given.json)

    @property
    def talks(self) -> bool:
        """Whether notes are wanted."""
        return not (self.quiet or self.json)

    @property
    def shows_progress(self) -> bool:
        """Whether progress is wanted: a person at a terminal sees it even with --json."""
        return not self.quiet and (sys.stderr.isatty() or not self.json)

    def note(self, text: str) -> None:
        """A line on stderr about what is being done or what to try next."""
        if self.talks:
            print(text, file=sys.stderr, flush=True)

    def fleeting(self, text: str) -> None:
        """A line on stderr that matters only to a person who waits."""
        if self.talks and sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A line on stderr that is said in any case."""
        print(f"everlong: warning: {text}", file=sys.stderr, flush=True)

    def result(self, value: Any) -> None:
        """The result as one JSON value on one line of stdout."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    @contextmanager
    def progresses(self, totals: dict[str, int]) -> Iterator[Callable[[str, int, str], None]]:
        """A function (name, done, words) for works that go on side by side, `totals` tokens each.

        What is left of a work is told from its first words on: it may have waited for others before.
        """
        if not self.shows_progress:
            yield lambda name, done, words: None
        elif sys.stderr.isatty():
            with _bars() as bars:
                tasks = {name: bars.add_task(name, total=total, words="") for name, total in totals.items()}
                yield lambda name, done, words: bars.update(tasks[name], completed=done, words=words)
        else:
            lines: dict[str, Advance] = {}

            def advance(name: str, done: int, words: str) -> None:
                if name not in lines:
                    lines[name] = _lines(name, totals[name], "tokens", done)
                lines[name](done, words)

            yield advance

    @contextmanager
    def progress(self, what: str, total: int | None, unit: str = "tokens", begun: int = 0) -> Iterator[Advance]:
        """A function (done, words) that shows progress: a bar on a terminal, now and then a line elsewhere.

        `begun` is how much was done before; the time that is left is told by what is done from then on.
        """
        if not self.shows_progress:
            yield lambda done, words: None
        elif sys.stderr.isatty():
            with _bar(what, total, unit, begun) as advance:
                yield advance
        else:
            yield _lines(what, total, unit, begun)


def _lines(what: str, total: int | None, unit: str, begun: int = 0) -> Advance:
    """Progress as plain lines, one every few seconds."""
    end = "" if total is None else f" / {total:,}"
    left = _Left(total, begun)
    spoken = time.monotonic()

    def advance(done: int, words: str) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= _LINE_EVERY_S:
            spoken = time.monotonic()
            told = ", ".join(part for part in (words, left.told(done)) if part)
            print(f"{what} {done:,}{end} {unit}  {told}".rstrip(), file=sys.stderr, flush=True)

    return advance


class _Left:
    """How long it will take yet, by how long it has taken so far."""

    def __init__(self, total: int | None, begun: int) -> None:
        self._total, self._begun, self._since = total, begun, time.monotonic()

    def told(self, done: int) -> str:
        """In words; nothing where that is not known."""
        if self._total is None or done <= self._begun:
            return ""
        each = (time.monotonic() - self._since) / (done - self._begun)
        return f"{duration(each * max(0, self._total - done))} left"


def _bars() -> Any:
    """Moving lines, one below the other."""
    counts = TextColumn("{task.completed:,} / {task.total:,} tokens")
    columns = (TextColumn("{task.description:<6}"), BarColumn(), counts, TextColumn("{task.fields[words]}"))
    return Progress(*columns, TimeRemainingColumn(), console=Terminal(stderr=True, highlight=False), transient=True)


@contextmanager
def _bar(what: str, total: int | None, unit: str, begun: int) -> Iterator[Advance]:
    """Progress as one moving line."""
    counts = "{task.completed:,}" + ("" if total is None else f" / {total:,}") + f" {unit}"
    named, told = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[words]"))
    time_taken = (TimeElapsedColumn(),) if total is None else ()
    columns = (named, BarColumn(), TextColumn(counts), told, *time_taken)
    left = _Left(total, begun)
    with Progress(*columns, console=Terminal(stderr=True, highlight=False), transient=True) as bars:
        task = bars.add_task(what, total=total, completed=begun, words="")

        def advance(done: int, words: str) -> None:
            said = ", ".join(part for part in (words, left.told(done)) if part)
            bars.update(task, completed=done, words=said)

        yield advance
