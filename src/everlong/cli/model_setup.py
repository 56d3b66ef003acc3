"""From the shared options to a loaded model, with the libraries' own noise turned off."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from everlong.cli.console import Console
    from everlong.models.load import Loaded


def load_model(
    model: str,
    dtype: str,
    device: str,
    threads: int | None,
    console: Console,
    memory: Path | None = None,
    weights: str = "full",
) -> Loaded:
    """The model that the shared options name, with its memory if it has one, after torch got its threads."""
    from everlong.hooks.adapter import load

    prepare(threads, console)
    console.fleeting(f"Loading {model} ...")
    return load(model, dtype, device, memory, weights)


def prepare(threads: int | None, console: Console) -> None:
    """Gives torch its threads and turns the libraries' own words off."""
    import torch

    if threads is not None:
        _check_threads(threads)
        torch.set_num_threads(threads)
    _hush(console)


def _check_threads(threads: int) -> None:
    """ConfigError for so many threads that the process could not start them."""
    from everlong.errors import ConfigError

    cores = os.cpu_count() or 1
    most = max(64, 4 * cores)
    if threads > most:
        raise ConfigError(
            f"threads={threads}: this machine has {cores} cores; expected 1 to {most}, {cores} or fewer is best"
        )


def _hush(console: Console) -> None:
    """Turns off the bars and logs of the libraries; everlong's own log goes to stderr unless quiet."""
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(transformers|torch|huggingface_hub|tokenizers)\b")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("everlong: %(message)s"))
    own = logging.getLogger("everlong")
    own.handlers[:] = [handler]
    own.setLevel(logging.INFO if console.talks else logging.WARNING)
    own.propagate = False
