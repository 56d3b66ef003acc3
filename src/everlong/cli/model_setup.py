"""From the shared options to a loaded model, with the libraries' own noise turned off."""

from __future__ import annotations

import logging
import os
import warnings

import torch
import transformers

from everlong.cli.console import Console
from everlong.cli.groups import Hardware, ModelChoice
from everlong.errors import ConfigError
from everlong.hooks.adapter import load
from everlong.models.load import Loaded


def load_model(model: ModelChoice, hardware: Hardware, console: Console) -> Loaded:
    """The model that the options name, with its memory if it has one, after torch got its threads."""
    prepare(hardware.threads, console)
    console.fleeting(f"Loading {model.model} ...")
    return load(model.model, hardware.dtype, hardware.device, model.memory, model.weights)


def prepare(threads: int | None, console: Console) -> None:
    """Give torch its threads and turn the libraries' own words off."""
    if threads is not None:
        _check_threads(threads)
        torch.set_num_threads(threads)
    _hush(console)


def _check_threads(threads: int) -> None:
    """ConfigError for so many threads that the process could not start them."""
    cores = os.cpu_count() or 1
    most = max(64, 4 * cores)
    if threads > most:
        raise ConfigError(
            f"threads={threads}: this machine has {cores} cores; expected 1 to {most}, {cores} or fewer is best"
        )


def _hush(console: Console) -> None:
    """Turn off the bars and logs of the libraries; everlong's own log goes to stderr unless quiet."""
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
