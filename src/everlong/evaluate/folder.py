"""The folder of a run, written so that it resumes: config.json, records.jsonl (a line a question), summary.json."""

from __future__ import annotations

import datetime as dt
import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import everlong
from everlong.errors import ConfigError, InputError
from everlong.evaluate.plan import Plan
from everlong.evaluate.summary import summarised
from everlong.locks import lock
from everlong.machine import commit, machine, versions

CONFIG = "config.json"
RECORDS = "records.jsonl"
SUMMARY = "summary.json"


class Folder(AbstractContextManager["Folder"]):
    """Records of one plan. ConfigError if the folder has those of another one."""

    def __init__(self, path: Path, plan: Plan, data: Path | None = None) -> None:
        self.path, place = path, None if data is None else str(data.resolve())
        wanted = json.loads(json.dumps(plan.as_dict()))
        path.mkdir(parents=True, exist_ok=True)
        if (path / CONFIG).exists():
            self.config = read_config(path)
            _same(path, _kept_plan(self.config, wanted), wanted | {"data": place})
        else:
            if (path / RECORDS).exists():
                raise ConfigError(f"{path}: has {RECORDS} without {CONFIG}; give another folder to --out")
            self.config = {"plan": wanted, "data": place} | _circumstances()
            _write(path / CONFIG, self.config)
        self._file = (path / RECORDS).open("a", encoding="utf-8")
        try:
            said = f"--out {path}: another process writes to it; wait for it, or give another folder"
            lock(self._file.fileno(), ConfigError(said))
            self.records = _whole_lines(path / RECORDS)
        except BaseException:
            self._file.close()
            raise
        self._done = {key(record) for record in self.records}

    def has(self, sample: dict[str, Any]) -> bool:
        """Whether the records of this sample are there."""
        return key(sample) in self._done

    def add(self, records: list[dict[str, Any]]) -> None:
        """Write all records of one sample, together."""
        self._file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records += records
        self._done |= {key(record) for record in records}

    def summarise(self) -> list[dict[str, Any]]:
        """Write the summary, and give it."""
        rows = summarised(self.records)
        _write(self.path / SUMMARY, rows)
        return rows

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _kept_plan(config: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The plan that a folder was begun with; `auto`, where runs wrote that down, was float32 on a CPU."""
    plan = config["plan"] | {"data": config.get("data")}
    return plan | {"dtype": "float32"} if plan["dtype"] == "auto" != wanted["dtype"] else plan


def key(record: dict[str, Any]) -> str:
    """What tells a sample on a method from all others in the folder."""
    return json.dumps([record[name] for name in ("task", "options", "method", "settings", "id")], sort_keys=True)


def read_config(path: Path) -> dict[str, Any]:
    """What config.json in the folder says; InputError if it is damaged."""
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        content["plan"]["entries"]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{path / CONFIG}: not the config of a run; give the folder of an `everlong eval`") from None
    return content


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records in the folder; a line that was cut off at the end does not count."""
    content = (path / RECORDS).read_text(encoding="utf-8")
    lines = content.split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise InputError(f"{path / RECORDS}: not JSON ({error.msg}); remove the damaged line") from None


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The records of a file, without an end that was cut off, of which the file is rid then."""
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(file, whole)
    return read_records(file.parent)


def _same(path: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """ConfigError, naming the first difference, unless both plans are one."""
    for name, value in wanted.items():
        if there.get(name) != value:
            got, was = (json.dumps(x.get(name))[:120] for x in (wanted, there))
            raise ConfigError(f"--out {path}: holds a run with {name} {was}, got {got}; give another folder to --out")


def _circumstances() -> dict[str, Any]:
    return {
        "versions": versions(),
        "machine": machine(),
        "commit": commit(Path(everlong.__file__).parent),
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def _write(file: Path, value: Any) -> None:
    """The value as JSON, wholly or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)
