"""Runs a plan: every sample of every task on every method, one record for each question, on from where it stopped."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from everlong.errors import CapabilityError
from everlong.evaluate.at_once import answered, why_alone
from everlong.evaluate.baseline import PeerStream, stock_copy
from everlong.evaluate.data import Data
from everlong.evaluate.folder import Folder, key
from everlong.evaluate.plan import Entry, Plain, Plan, Subject
from everlong.evaluate.stream import Clock, MethodStream, Stream
from everlong.evaluate.task import Sample, Setting
from everlong.evaluate.work import Advance, Lap, Meter, Work
from everlong.hooks.attach import attach
from everlong.hooks.packed_check import unpackable
from everlong.library.library import Library
from everlong.machine import peak_rss_bytes, reset_peak_rss
from everlong.methods.base import Method
from everlong.methods.dense import Dense
from everlong.models.load import Loaded
from everlong.session.session import Session


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
    at_once: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Run what `out` does not have yet; the rows of the summary.

    With `store` (a folder) methods that store blocks do so on the disk, and each sample's are deleted after it.
    `progress(total)` is a context manager that gives an `Advance`. An interrupt loses the samples that were being
    read, and no more. So many samples are run `at_once` where an answer is all that is asked; `say` is told what is
    run one at a time all the same. Then peak memory is not given, and the time is a sample's share of the forwards.
    """
    data = data or Data(None)
    with Folder(out, plan, data.path) as folder:
        work = planned(plan, loaded, data)
        # Two entries of the plan may have a sample in common.
        left = list({key(item.facts): item for item in work if not folder.has(item.facts)}.values())
        together = [w for w in left if at_once > 1 and why_alone(w.entry, w.subject) is None]
        alone = [w for w in left if at_once == 1 or why_alone(w.entry, w.subject) is not None]
        runner = Runner(plan, loaded, store)
        with runner.attached(), (progress or _silent)(sum(item.weight for item in left)) as advance:
            meter = Meter(len(work) - len(left), len(work), advance)
            _say_what_is_alone(alone, together, loaded, at_once, say)
            for item, record in answered(together, runner.method_stream, meter, at_once, plan.chunk):
                folder.add([record | {"peak_rss_bytes": None}])
                meter.ends(item)
            for item in alone:
                folder.add(runner.records(item, meter.begins(item)))
                meter.ends(item)
        return folder.summarise()


def _say_what_is_alone(
    alone: list[Work], together: list[Work], loaded: Loaded, at_once: int, say: Callable[[str], None]
) -> None:
    """Say what is not run at once though it was asked for, and why."""
    if at_once > 1 and alone:
        reasons = dict.fromkeys(str(why_alone(w.entry, w.subject)) for w in alone)
        say(f"One at a time: {', '.join(reasons)}.")
    if together and (reason := unpackable(loaded.model)) is not None:
        say(f"The model reads streams one by one, which gains no time: {reason}.")


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
        """An empty stream of the method, or of plain transformers."""
        if isinstance(subject, Plain):
            yield PeerStream(self._stock or self.loaded, clock, self.plan.chunk)
        else:
            with self.method_stream(subject, clock) as stream:
                yield stream

    @contextmanager
    def method_stream(self, method: Method, clock: Clock) -> Iterator[MethodStream]:
        """An empty stream of the method."""
        if self.store is None or not method.answers:
            with Session(self.loaded, method, self.plan.chunk) as session:
                yield MethodStream(self.loaded, session, clock)
        else:
            name = f"eval-{secrets.token_hex(6)}"
            try:
                with Session(self.loaded, method, self.plan.chunk, self.store, name) as session:
                    yield MethodStream(self.loaded, session, clock)
            finally:
                library = Library(self.store)
                if library.find(name) is not None:
                    library.delete(name)

    def records(self, work: Work, tick: Callable[[int], None] | None = None) -> list[dict[str, Any]]:
        """What came of one sample on one method: a record for each question, and one more if it ended early."""
        clock = Clock()
        found = []
        clock.tick = tick or clock.tick
        reset = reset_peak_rss()
        start = Lap(clock)
        try:
            with self.stream(work.subject, clock) as stream:
                for outcome in work.entry.task.run(stream, work.sample):
                    found += [work.record(outcome, start.lap(), stream.report())]
        except CapabilityError as error:
            found.append(work.unanswered(error, start.lap()))
        peak = peak_rss_bytes() if reset else None
        return [record | {"peak_rss_bytes": peak} for record in found]


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


@contextmanager
def _silent(total: int) -> Iterator[Advance]:
    yield lambda done, words: None
