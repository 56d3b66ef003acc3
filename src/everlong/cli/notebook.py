"""The text of a notebook: its cells in order, code in fences, with what the code printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from everlong.cli.opened import Opened

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def cell_texts(file: Opened) -> Iterator[str]:
    """The text of each cell; InputError for what is no notebook. Pictures are left out, and counted."""
    try:
        found = json.loads(file.path.read_bytes())
        # Notebooks before format 4 had sheets.
        cells = found["cells"] if "cells" in found else [c for sheet in found["worksheets"] for c in sheet["cells"]]
        language = found.get("metadata", {}).get("kernelspec", {}).get("language", "")
        texts = []
        lost = 0
        for cell in cells:
            texts.append(_cell(cell, language))
            lost += sum(_is_picture(output) for output in cell.get("outputs", ()))
    except OSError as error:
        raise file.refuse(f"{error.strerror or error}; give a file that can be read") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise file.refuse(f"not a notebook, or damaged ({error}); give another") from None
    if lost:
        file.say(f"{lost} pictures are left out")
    yield from (text for text in texts if text)


def _cell(cell: dict[str, Any], language: str) -> str:
    source = _joined(cell.get("source", cell.get("input", ""))).strip("\n")
    if cell["cell_type"] == "heading":
        source = f"{'#' * int(cell.get('level', 1))} {source}"
    if cell["cell_type"] != "code":
        return f"{source}\n\n" if source else ""
    printed = "".join(map(_output, cell.get("outputs", ()))).strip("\n")
    return "".join(f"```{mark}\n{text}\n```\n\n" for mark, text in ((language, source), ("", printed)) if text)


def _output(output: dict[str, Any]) -> str:
    """What is text of an output."""
    data = output.get("data", output)
    text = _joined(data.get("text/plain", data.get("text", "")))
    if output.get("output_type") in ("error", "pyerr"):
        text = _joined(output.get("traceback", ()))
    return f"{_COLOURS.sub('', text)}\n" if text and not _is_picture(output) else ""


def _is_picture(output: dict[str, Any]) -> bool:
    data = output.get("data", output)
    return any(key.startswith("image/") or key in ("png", "jpeg", "svg") for key in data)


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
