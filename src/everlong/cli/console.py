"""What a command says while it runs: notes and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_LINE_EVERY_S = 5.0
Advance = Callable[[int, str], None]
"""Told how much is done, and a few words on how it goes."""


@dataclass(frozen=True)
class Console:
    """Where a command's words go; `quiet` and `json` leave nothing on stderr but warnings."""

    quiet: bool = False
    json: bool = False

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
        """A function (name, done, words) for works that go on side by side, `totals` tokens each."""
        if not self.shows_progress:
            yield lambda name, done, words: None
        elif sys.stderr.isatty():
            with _bars() as bars:
                tasks = {name: bars.add_task(name, total=total, words="") for name, total in totals.items()}
                yield lambda name, done, words: bars.update(tasks[name], completed=done, words=words)
        else:
            lines = {name: _lines(name, total, "tokens") for name, total in totals.items()}
            yield lambda name, done, words: lines[name](done, words)

    @contextmanager
    def progress(self, what: str, total: int | None, unit: str = "tokens") -> Iterator[Advance]:
        """A function (done, words) that shows progress: a bar on a terminal, now and then a line elsewhere."""
        if not self.shows_progress:
            yield lambda done, words: None
        elif sys.stderr.isatty():
            with _bar(what, total, unit) as advance:
                yield advance
        else:
            yield _lines(what, total, unit)


def _lines(what: str, total: int | None, unit: str) -> Advance:
    """Progress as plain lines, one every few seconds."""
    end = "" if total is None else f" / {total:,}"
    spoken = time.monotonic()

    def advance(done: int, words: str) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= _LINE_EVERY_S:
            spoken = time.monotonic()
            print(f"{what} {done:,}{end} {unit}  {words}".rstrip(), file=sys.stderr, flush=True)

    return advance


def _bars() -> Any:
    """Moving lines, one below the other."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    counts = TextColumn("{task.completed:,} / {task.total:,} tokens")
    columns = (TextColumn("{task.description:<6}"), BarColumn(), counts, TextColumn("{task.fields[words]}"))
    return Progress(*columns, TimeRemainingColumn(), console=Terminal(stderr=True, highlight=False), transient=True)


@contextmanager
def _bar(what: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Progress as one moving line."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    counts = "{task.completed:,}" + ("" if total is None else f" / {total:,}") + f" {unit}"
    left = TimeElapsedColumn() if total is None else TimeRemainingColumn()
    columns = (TextColumn(what), BarColumn(), TextColumn(counts), TextColumn("{task.fields[words]}"), left)
    with Progress(*columns, console=Terminal(stderr=True, highlight=False), transient=True) as bars:
        task = bars.add_task(what, total=total, words="")
        yield lambda done, words: bars.update(task, completed=done, words=words)
