"""Runs a plan: every sample of every task on every method, one record for each question, on from where it stopped."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everlong.errors import CapabilityError, TooLongError
from everlong.evaluate.baseline import PeerStream, stock_copy
from everlong.evaluate.data import Data
from everlong.evaluate.folder import Folder
from everlong.evaluate.plan import Entry, Plain, Plan, Subject
from everlong.evaluate.stream import Clock, MethodStream, Stream
from everlong.evaluate.task import Outcome, Sample, Setting
from everlong.hooks.attach import attach
from everlong.library.library import Library
from everlong.machine import peak_rss_bytes, reset_peak_rss
from everlong.methods.dense import Dense
from everlong.models.load import Loaded
from everlong.session.session import Session

Advance = Callable[[int, str], None]
"""Told how many characters were read so far, and a few words on how it goes."""


@dataclass(frozen=True)
class Work:
    """One sample on one method, and what its records say of where they come from."""

    entry: Entry
    subject: Subject
    sample: Sample
    facts: dict[str, Any]


def planned(plan: Plan, loaded: Loaded, data: Data) -> list[Work]:
    """All that the plan does, sample by sample, each on every method; reads and checks every file that is needed."""
    setting = Setting(loaded.tokenizer, data, plan.seed)
    found = []
    for entry in plan.entries:
        taken: Counter[tuple[str, int | None, float | None]] = Counter()
        for sample in entry.task.make_samples(setting):
            taken[part := (sample.group, sample.length, sample.depth)] += 1
            number = taken[part] - plan.skip
            if number > 0 and (plan.limit is None or number <= plan.limit):
                found += [Work(entry, s, sample, _facts(plan, entry, s, sample)) for s in entry.subjects]
    return found


def evaluate(
    plan: Plan,
    loaded: Loaded,
    out: Path,
    data: Data | None = None,
    progress: Callable[[int], Any] | None = None,
    store: Path | None = None,
) -> list[dict[str, Any]]:
    """Run what `out` does not have yet; the rows of the summary.

    With `store` (a folder) methods that store blocks do so on the disk, and each sample's are deleted after it.
    `progress(total)` is a context manager that gives an `Advance`. An interrupt loses the sample that was being read,
    and no more.
    """
    data = data or Data(None)
    with Folder(out, plan, data.path) as folder:
        work = planned(plan, loaded, data)
        left = [item for item in work if not folder.has(item.facts)]
        runner = Runner(plan, loaded, store)
        with (progress or _silent)(sum(_weight(item) for item in left)) as advance, runner.attached():
            meter = Meter(len(work) - len(left), len(work), advance)
            for item in left:
                if folder.has(item.facts):  # two entries of the plan may have a sample in common
                    continue
                folder.add(runner.records(item, meter.begins(item)))
                meter.ends(_weight(item))
        return folder.summarise()


class Runner:
    """A loaded model, and a second one over the same weights for plain transformers."""

    def __init__(self, plan: Plan, loaded: Loaded, store: Path | None = None) -> None:
        self.plan = plan
        self.loaded = loaded
        self.store = store
        self._stock: Loaded | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the model attached between sessions."""
        if not any(not isinstance(s, Plain) for entry in self.plan.entries for s in entry.subjects):
            yield
            return
        self._stock = Loaded(stock_copy(self.loaded.model), self.loaded.tokenizer, self.loaded.name)
        with attach(self.loaded.model, Dense()):
            yield

    @contextmanager
    def stream(self, subject: Subject, clock: Clock) -> Iterator[Stream]:
        """An empty stream of the method."""
        if isinstance(subject, Plain):
            yield PeerStream(self._stock or self.loaded, clock, self.plan.chunk)
        elif self.store is None or not subject.answers:
            with Session(self.loaded, subject, self.plan.chunk) as session:
                yield MethodStream(self.loaded, session, clock)
        else:
            name = f"eval-{secrets.token_hex(6)}"
            try:
                with Session(self.loaded, subject, self.plan.chunk, self.store, name) as session:
                    yield MethodStream(self.loaded, session, clock)
            finally:
                library = Library(self.store)
                if library.find(name) is not None:
                    library.delete(name)

    def records(self, work: Work, tick: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
        """What came of one sample on one method: a record for each question, and one more if it ended early."""
        clock = Clock()
        found = []
        status = "ok"
        note = None
        clock.tick = tick or clock.tick
        reset = reset_peak_rss()
        start = _Lap(clock)
        try:
            with self.stream(work.subject, clock) as stream:
                for outcome in work.entry.task.run(stream, work.sample):
                    found += [self._record(work, outcome, start.lap(), stream.report())]
        except CapabilityError as error:
            status = "too long" if isinstance(error, TooLongError) else "cannot"
            note = str(error)
        if status != "ok":
            empty = Outcome(None, None, list(work.sample.gold))
            found.append(self._record(work, empty, start.lap(), None) | {"status": status, "note": note})
        peak = peak_rss_bytes() if reset else None
        return [record | {"peak_rss_bytes": peak} for record in found]

    def _record(
        self, work: Work, outcome: Outcome, spent: dict[str, Any], report: dict[str, Any] | None
    ) -> dict[str, Any]:
        return work.facts | {
            "part": outcome.part,
            "group": work.sample.group if outcome.group is None else outcome.group,
            "status": "ok",
            "prediction": outcome.prediction,
            "gold": outcome.gold,
            "score": outcome.score,
            "scores": dict(outcome.scores),
            "facts": dict(outcome.facts),
            **spent,
            "report": report,
        }


@dataclass
class _Lap:
    """Time and tokens since the last record of a sample."""

    clock: Clock
    start: float = field(default_factory=time.perf_counter)
    before: tuple[float, int, int] = (0.0, 0, 0)

    def lap(self) -> dict[str, Any]:
        """What was spent since."""
        now = time.perf_counter()
        clock = self.clock
        after = (clock.model_s, clock.new_tokens, clock.truncated_tokens)
        model_s, new, truncated = (b - a for a, b in zip(self.before, after, strict=True))
        spent = {"prompt_tokens": clock.prompt_tokens, "new_tokens": new, "truncated_tokens": truncated}
        spent |= {"seconds": now - self.start, "model_s": model_s}
        self.start = now
        self.before = after
        return spent


@dataclass
class Meter:
    """How far a run is, in characters."""

    done_samples: int
    samples: int
    advance: Advance
    done: int = 0

    def begins(self, work: Work) -> Callable[[int], None]:
        """What the stream of a sample tells its progress to."""
        within = 0
        most = _weight(work)
        words = f"{work.entry.task.name} {work.subject.name}, {self.done_samples}/{self.samples} samples"

        def tick(chars: int) -> None:
            nonlocal within
            within = min(most, within + chars)
            self.advance(self.done + within, words)

        tick(0)
        return tick

    def ends(self, weight: int) -> None:
        """A sample is done."""
        self.done += weight
        self.done_samples += 1


def _facts(plan: Plan, entry: Entry, subject: Subject, sample: Sample) -> dict[str, Any]:
    return {
        "task": entry.task.name,
        "version": entry.task.version,
        "options": _plain(entry.task.as_dict()),
        "method": subject.name,
        "settings": _plain(subject.as_dict()),
        "model": plan.model,
        "id": sample.id,
        "length": sample.length,
        "depth": sample.depth,
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields as they come back from a file of records: tuples are lists."""
    return json.loads(json.dumps(fields))


def _weight(work: Work) -> int:
    """Characters that are read."""
    return len(work.sample.context) + len(work.sample.question) + 1


@contextmanager
def _silent(total: int) -> Iterator[Advance]:
    yield lambda done, words: None
