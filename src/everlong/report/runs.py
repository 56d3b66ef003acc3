"""The runs of `everlong eval` in a folder and the folders below it, read and checked."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from everlong.errors import InputError, one_line
from everlong.evaluate.folder import CONFIG, RECORDS, read_config, read_records


@dataclass(frozen=True)
class Run:
    """One folder that `everlong eval` wrote."""

    name: str
    """The folder, as seen from the one that was given."""
    config: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def basis(self) -> list[Any]:
        """What must be equal in two runs for their records to be told as one: settings, versions, commit, data."""
        plan = {
            name: value for name, value in self.config["plan"].items() if name not in ("entries", "threads", "limit")
        }
        return [plan, *(self.config.get(name) for name in ("versions", "commit", "data"))]


@dataclass(frozen=True)
class _Record:
    """What the report reads of a record."""

    task: str
    version: int
    options: dict[str, Any]
    method: str
    settings: dict[str, Any]
    model: str
    id: str
    part: str
    group: str
    length: int | None
    depth: float | None
    status: str
    score: float | None
    scores: dict[str, float]
    facts: dict[str, Any]
    prediction: Any
    gold: Any
    prompt_tokens: int
    new_tokens: int
    truncated_tokens: int
    seconds: float
    model_s: float
    peak_rss_bytes: int | None
    report: dict[str, Any] | None


@dataclass(frozen=True)
class _Entry:
    task: dict[str, Any]
    methods: list[dict[str, Any]]


@dataclass(frozen=True)
class _Plan:
    model: str
    entries: list[_Entry]


@dataclass(frozen=True)
class _Config:
    """What the report reads of a config."""

    plan: _Plan
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    started: str = ""
    data: str | None = None


def find_runs(folder: Path) -> list[Run]:
    """All runs in the folder, by name; InputError if there are none, or if a file of one is damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that `everlong eval --out` wrote, or one above it")
    places = sorted({file.parent for file in folder.rglob(RECORDS)})
    found = [_run(place, folder) for place in places]
    if not any(run.records for run in found):
        what = f"{len(found)} runs without a record" if found else f"no run ({CONFIG} and {RECORDS})"
        raise InputError(f"{folder}: holds {what}; run `everlong eval ... --out {shlex.quote(str(folder))}` first")
    return found


def _run(place: Path, folder: Path) -> Run:
    name = place.name if place == folder else str(place.relative_to(folder))
    config = read_config(place)
    _check(config, _Config, place / CONFIG)
    try:
        records = read_records(place)
    except UnicodeDecodeError as error:
        raise InputError(f"{place / RECORDS}: not UTF-8 text (byte {error.start}); restore the file") from None
    _check(records, list[_Record], place / RECORDS)
    return Run(name, config, records)


def _check(value: Any, form: Any, file: Path) -> None:
    """InputError, naming the line and the field, unless the value has this form."""
    try:
        TypeAdapter(form).validate_python(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        line, *where = wrong["loc"] if isinstance(value, list) else (None, *wrong["loc"])
        place = str(file) if line is None else f"{file}:{int(line) + 1}"
        what = f"{'.'.join(map(str, where)) or 'the line'}: {one_line(wrong['msg'])}"
        raise InputError(
            f"{place}: {what}; restore the file, or remove the line and run `everlong eval` again"
        ) from None
