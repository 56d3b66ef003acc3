"""What `everlong models` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from everlong.cli import groups


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List the models that are here, and what they are good for.

    The default one, those that come with everlong, and GGUF files and transformers folders that write text: in
    $EVERLONG_HOME and its folder models, in the cache of the Hugging Face hub, and in the folders given. CONTEXT is
    what a model was trained to see at once; everlong reads on past it. HEADS says whether its retrieval heads are known
    (`everlong calibrate`), with which questions find more. --json prints a list of objects: name (what --model takes),
    path, bytes, parameters, context_tokens, calibrated, memory (the method of a trained one) and note.

    Models are read from where they lie. Versions before this one kept unpacked copies of GGUF files in the cache:
    --clean removes those, and nothing else.
    """

    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Further folders to look into.")
    ] = None
    clean: Annotated[bool, typer.Option("--clean", help="Remove copies of GGUF files that earlier versions kept.")] = (
        False
    )
    output: groups.Output
