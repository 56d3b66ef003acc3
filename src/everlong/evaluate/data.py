"""Benchmark files in their official layouts: found in the folder that the user gives, read line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlong.errors import InputError

VARIABLE = "EVERLONG_DATA"


@dataclass(frozen=True)
class Data:
    """The place that --data names: a file, a folder with a task's files, or one with a folder for each task."""

    path: Path | None

    @classmethod
    def given(cls, path: Path | str | None) -> Data:
        """The given place, else that of $EVERLONG_DATA; InputError if it does not exist."""
        chosen = path or os.environ.get(VARIABLE) or None
        if chosen is not None and not Path(chosen).exists():
            what = "--data" if path else f"${VARIABLE}"
            raise InputError(f"{what} {chosen}: no such file or folder; give the folder with the benchmark's files")
        return cls(Path(chosen) if chosen else None)

    def files(self, folder: str, *patterns: str) -> list[Path]:
        """The files that match one of the patterns, by name; from the folder of this name if there is one.

        The place may be such a file itself. InputError, naming `folder` and the patterns, if there is none.
        """
        wanted = f"{folder}/{' or '.join(patterns)}"
        if self.path is None:
            raise InputError(f"--data: missing; {wanted} is needed: give the folder that has it, or set ${VARIABLE}")
        if self.path.is_file():
            if any(self.path.match(pattern) for pattern in patterns):
                return [self.path]
            raise InputError(f"--data {self.path}: expected {' or '.join(patterns)}; give that file or its folder")
        for place in (self.path / folder, self.path):
            found = sorted({file for pattern in patterns for file in place.glob(pattern) if file.is_file()})
            if found:
                return found
        raise InputError(f"--data {self.path}: has no {wanted}; give the folder that has it")


def rows(file: Path, *fields: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file (or of a JSON file with a list), each of which must have these fields.

    InputError names the file, the line and what is wrong with it.
    """
    for number, value in _values(file):
        if not isinstance(value, dict):
            raise InputError(f"{file}:{number}: got {type(value).__name__}, expected an object; use the official file")
        missing = [name for name in fields if name not in value]
        if missing:
            raise InputError(f"{file}:{number}: lacks the field {missing[0]!r}; use the official file")
        yield value


def text(file: Path) -> str:
    """The text of a file; InputError if it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start}); convert it first") from None


def mapping(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{error.lineno}: not JSON ({error.msg}); use the official file") from None
    if not isinstance(value, dict):
        raise InputError(f"{file}: got {type(value).__name__}, expected an object; use the official file")
    return value


def _values(file: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of each line, or of each member of a JSON list."""
    content = text(file)
    if content.lstrip().startswith("["):
        yield from enumerate(_parsed(file, 1, content), start=1)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(file, number, line)


def _parsed(file: Path, number: int, content: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}:{number + error.lineno - 1}: not JSON ({error.msg}); use the official file") from None
