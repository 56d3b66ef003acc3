"""Tables of an evaluation: for each task, methods by what was measured (part, length), from the records of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from everlong.evaluate.summary import summarised
from everlong.report.runs import Run

Record = dict[str, Any]
Place = tuple[str, int | None]
"""A column: the part of the task, and the length of its samples."""
T = TypeVar("T")
_SCOPE = (
    "lengths",
    "depths",
    "samples",
    "subsets",
    "distances",
    "files",
    "folder",
    "tokens",
    "questions",
    "conversations",
)
"""Options that say how much of a task was run, and not what it is."""
_RESAMPLES = 2000
_ONE = {"options": {}, "group": "", "length": None, "depth": None}


@dataclass(frozen=True)
class TableCell:
    """What records have in common: n that were judged, their mean with its 95 % interval, and why others were not."""

    n: int
    value: float | None
    low: float | None
    high: float | None
    too_long: int
    cannot: int
    scores: dict[str, float]
    """Means of further metrics."""

    @classmethod
    def of(cls, records: Sequence[Record], perplexity: bool = False) -> TableCell:
        """The cell of these records, as a mean score 0..1 or as perplexity."""
        (row,) = summarised([record | _ONE for record in records])
        value = row["score"]
        low = row["low"]
        high = row["high"]
        if perplexity:
            value, low, high = pooled_perplexity([record for record in records if record["score"] is not None])
        if value is not None and not math.isfinite(value):
            value = low = high = None
        if low == high:
            low = high = None
        return cls(row["n"], value, low, high, row["too_long"], row["cannot"], row["scores"])


@dataclass(frozen=True)
class TableRow:
    """All records of a method in one table."""

    label: str
    method: str
    settings: dict[str, Any]
    model: str
    runs: tuple[str, ...]
    records: list[Record]

    def by_place(self) -> dict[Place, list[Record]]:
        """Records by part and length."""
        return grouped(self.records, lambda r: (r["group"], r["length"]))

    def by_length(self) -> dict[int, list[Record]]:
        """Records by length, shortest first, where they have one."""
        found = grouped((r for r in self.records if r["length"] is not None), lambda r: r["length"])
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class Table:
    """One task, in one version and with one choice of the options that say what it is."""

    task: str
    title: str
    """The task, with what tells it from other tables of the same task."""
    version: int
    options: dict[str, Any]
    rows: list[TableRow]

    @property
    def perplexity(self) -> bool:
        """Whether the score is 1 / perplexity."""
        judged = [r for row in self.rows for r in row.records if r["score"] is not None]
        return bool(judged) and all(map(is_perplexity, judged))

    @property
    def places(self) -> list[Place]:
        """The columns: parts in the order of the records, each by length."""
        found = list(dict.fromkeys(place for row in self.rows for place in row.by_place()))
        parts = list(dict.fromkeys(part for part, _ in found))
        return sorted(found, key=lambda place: (parts.index(place[0]), place[1] or 0))

    def cell(self, records: Sequence[Record]) -> TableCell:
        """The cell of records of this table."""
        return TableCell.of(records, self.perplexity)


def tables(runs: Sequence[Run]) -> list[Table]:
    """The tables of all tasks, in the order of the records; those of one task follow one another."""
    named = [(n, run.name, record) for n, batch in enumerate(joined(runs)) for run in batch for record in run.records]
    by_task = grouped(named, lambda member: member[2]["task"]).values()
    found = [members for task in by_task for members in grouped(task, lambda member: _key(member[2])).values()]
    options = [{"version": members[0][2]["version"]} | _what(members[0][2]) for members in found]
    tasks = [members[0][2]["task"] for members in found]
    rows = [_rows(members) for members in found]
    every = [row for own in rows for row in own]
    result = []
    for task, chosen, own in zip(tasks, options, rows, strict=True):
        others = [other for name, other in zip(tasks, options, strict=True) if name == task]
        title = ", ".join(
            [_called(task, own), *(f"{name}={shown(value)}" for name, value in differing(chosen, others).items())]
        )
        plain = {name: value for name, value in chosen.items() if name != "version"}
        result.append(Table(task, title, chosen["version"], plain, [_labelled(row, own, every) for row in own]))
    return result


def _called(task: str, rows: Sequence[TableRow]) -> str:
    """What the task is called: by the benchmarks that its records say they are of, if they do."""
    named = {r["facts"]["benchmark"] for row in rows for r in row.records if "benchmark" in r["facts"]}
    return f"{' and '.join(sorted(named))} (task {task})" if named else task


def joined(runs: Sequence[Run]) -> list[list[Run]]:
    """Batches of runs that can be told as one: equal in their basis, and without a sample in common."""
    found: list[tuple[list[Run], set[str]]] = []
    for run in runs:
        samples = {json.dumps([_key(r), _subject(r), r["id"], r["part"]]) for r in run.records}
        fitting = (pair for pair in found if pair[0][0].basis == run.basis and not pair[1] & samples)
        batch, seen = next(fitting, ([], set()))
        if not batch:
            found.append((batch, seen))
        batch.append(run)
        seen |= samples
    return [batch for batch, _ in found]


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """The items by key, in the order in which keys come first."""
    found: dict[Any, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def differing(one: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The items of `one` that are not the same in all others."""
    return {k: v for k, v in one.items() if any(k not in other or other[k] != v for other in others)}


def shown(value: Any) -> str:
    """A setting as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_perplexity(record: Record) -> bool:
    """Whether the score is 1 over the perplexity that stands among the facts, or the task is `ppl`."""
    found = record["facts"].get("perplexity")
    if not isinstance(found, int | float):
        return record["task"] == "ppl" and bool(record["score"])
    return math.isclose(found * record["score"], 1, rel_tol=1e-3)


def pooled_perplexity(records: Sequence[Record]) -> tuple[float | None, float | None, float | None]:
    """Perplexity over all tokens of the records with its 95 % interval, by resampling the records.

    exp of all nats over all tokens where the facts have both, else the geometric mean of the records' perplexities.
    """
    if not records:
        return None, None, None
    nats = np.array([-math.log(record["score"]) for record in records])
    tokens = np.array([record["facts"].get("tokens") or 0 for record in records], dtype=float)
    weights = tokens if tokens.all() else np.ones(len(records))
    draws = np.random.default_rng(0).integers(0, len(nats), (_RESAMPLES, len(nats)))
    means = (nats * weights)[draws].sum(1) / weights[draws].sum(1)
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    return math.exp((nats * weights).sum() / weights.sum()), float(low), float(high)


def _key(record: Record) -> str:
    return json.dumps([record["task"], record["version"], _what(record)], sort_keys=True)


def _what(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record["options"].items() if name not in _SCOPE and value is not None}


def _subject(record: Record) -> str:
    return json.dumps([record["model"], record["method"], record["settings"]], sort_keys=True)


def _rows(members: list[tuple[int, str, Record]]) -> list[TableRow]:
    """A row for each method, choice of its settings, model and batch of runs."""
    found = []
    for own in grouped(members, lambda member: (member[0], _subject(member[2]))).values():
        first = own[0][2]
        runs = tuple(dict.fromkeys(name for _, name, _ in own))
        found.append(
            TableRow("", first["method"], first["settings"], first["model"], runs, [record for *_, record in own])
        )
    return found


def _labelled(row: TableRow, own: Sequence[TableRow], every: Sequence[TableRow]) -> TableRow:
    """The row with a label: what tells it from all rows of other settings and models, and in its table from all."""
    alike = [other.settings for other in every if other.method == row.method]
    words = [row.method, *(f"{name}={shown(value)}" for name, value in differing(row.settings, alike).items())]
    if len({other.model for other in every}) > 1:
        words.append(row.model)
    if sum((other.method, other.settings, other.model) == (row.method, row.settings, row.model) for other in own) > 1:
        words.append(f"({', '.join(row.runs)})")
    return replace(row, label=" ".join(words))
