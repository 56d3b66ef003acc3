"""Files written whole or not at all, with what was run beside them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everlong.config import dump_yaml
from everlong.errors import SaveError
from everlong.machine import circumstances


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """`path`, after `write` filled a temporary file that was then renamed; SaveError leaves nothing behind."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            draft = Path(folder) / path.name
            write(draft)
            draft.replace(path)
    except OSError as error:
        raise SaveError(f"{path}: cannot be written ({error.strerror or error}); give another place") from error
    return path


def check_place(path: Path | None, force: bool) -> None:
    """SaveError where no file could be written at `path`, or would be overwritten without `force`.

    Said before the work, not after it.
    """
    if path is None:
        return
    if path.is_dir():
        raise SaveError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not force:
        raise SaveError(f"{path}: exists; give another place, or --force to write over it")
    if not path.parent.is_dir():
        raise SaveError(f"{path}: there is no folder {path.parent}; make it, or give another place")
    if not os.access(path.parent, os.W_OK):
        raise SaveError(f"{path}: the folder {path.parent} cannot be written to; give another place")


def run_record(command: str, options: dict[str, Any]) -> str:
    """YAML with the options of a run, good for --config; comments say when and on what it was."""
    known = {name: value for name, value in options.items() if value is not None}
    return f"# everlong {command} --config THIS\n# {circumstances()}\n{dump_yaml(known)}"
