"""memory_config.json, which says what a trained memory is for: read without torch, so that a command can look first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from everlong.errors import LoadError, one_line
from everlong.models.load import model_folder

CONFIG = "memory_config.json"
FORMAT = 1


def memory_folder(model: str, memory: str | Path | None = None) -> Path | None:
    """The folder of a model's trained memory: `memory`, or that of the model itself; None if it has none.

    LoadError for a `memory` that is none.
    """
    if memory is not None:
        if not isinstance(memory, str | Path):
            raise LoadError(f"memory={memory!r}: expected the path of a folder that `everlong train` wrote")
        folder = Path(memory).expanduser()
        if not (folder / CONFIG).is_file():
            raise LoadError(f"{folder}: no {CONFIG} in this folder; give a folder that `everlong train` wrote")
        return folder
    folder = model_folder(model)
    return folder if folder is not None and (folder / CONFIG).is_file() else None


def read(folder: Path) -> dict[str, Any]:
    """The document: `method` (name and fields), `model` (digests and dtype), `parameters` (shapes)."""
    path = folder / CONFIG
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise LoadError(f"{path}: format {document['format']}, expected {FORMAT}; install a matching everlong")
        document["method"]["name"], document["method"]["fields"], document["model"]["configuration"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path}: not a memory's configuration ({one_line(error)}); train or copy it again") from None
    return document
