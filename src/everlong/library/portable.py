"""Saving a session and restoring it: bound to its model, tokenizer and method, or refused."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from everlong.errors import ConfigError, ForeignError, SessionError
from everlong.library import state_file as sealed
from everlong.library.database import check_format
from everlong.methods.base import Method, make_method
from everlong.models.fingerprint import fingerprint
from everlong.version import __version__

if TYPE_CHECKING:
    from everlong.library.stream import KeptStream

FORMAT = 3
"""The layout of what is saved; raised whenever a cache or a session keeps something else."""
FORMATS = (2, FORMAT)
"""Those that this version reads; 2 is still written where there are no digests in bfloat16."""


def save(session: KeptStream, path: str | Path, kept: tuple[str, Path] | None = None) -> Path:
    """Write `session` to the file `path`; SaveError if it cannot be, and then nothing is written.

    SessionError for one whose blocks lie in a store; `kept` is its name there and the folder (None: a fork of one).
    """
    if session.method.answers and session.stored("save").lies_on_disk:
        raise SessionError(_in_store(kept))
    tensors, meta = session.state()
    document = {
        "format": format_of(meta),
        "everlong": __version__,
        "method": session.method.recipe(),
        "model": session.name,
        "fingerprint": fingerprint(session.model, session.tokenizer),
        "state": meta,
    }
    path = Path(path)
    sealed.write(path, tensors, document)
    return path


def _in_store(kept: tuple[str, Path] | None) -> str:
    """Why a session whose blocks lie in a store is not saved, and what to do instead."""
    if kept is None:
        return (
            "save: this is a fork of a session that is kept in a store, and its blocks lie there; make a kept fork "
            "with `everlong sessions fork NAME NEW` and read on in that"
        )
    name, folder = kept
    return (
        f"save: session {name!r} is kept in {folder}, and its blocks lie there; checkpoint() keeps it as it is, and "
        f"`everlong sessions export {shlex.quote(name)} FILE --store {shlex.quote(str(folder))}` writes it to one file"
    )


def read(path: str | Path, model: Any, tokenizer: Any) -> tuple[Method, dict[str, Tensor], dict[str, Any]]:
    """The method, tensors and values of the session in `path`, if it is one of this model and tokenizer.

    InputError for a missing file, DamagedError for changed bytes, ForeignError naming what differs. The
    tokenizers are compared only where both sides have one.
    """
    tensors, document = sealed.read(Path(path))
    check_format(f"{path}: by everlong {document.get('everlong')}", "a session", document.get("format"), FORMATS)
    differ = differences(document["fingerprint"], fingerprint(model, tokenizer))
    if differ:
        raise ForeignError(
            f"{path}: saved with model {document['model']}; another {' and '.join(differ)} than given here; "
            "load the model it was saved with, with the same dtype and weights"
        )
    return _method(path, document["method"]), tensors, document["state"]


def format_of(meta: dict[str, Any]) -> int:
    """The format of a session's state."""
    memory = meta["cache"].get("memory") or {}
    return FORMAT if memory.get("digests") == "bfloat16" else FORMATS[0]


def differences(saved: dict[str, str | None], given: dict[str, str | None]) -> list[str]:
    """What differs, by name."""
    names = {"configuration": "model configuration", "weights": "model weights", "tokenizer": "tokenizer"}
    return [words for key, words in names.items() if saved[key] and given[key] and saved[key] != given[key]]


def _method(path: str | Path, saved: dict[str, Any]) -> Method:
    try:
        return make_method(saved["name"], saved["fields"])
    except ConfigError as error:
        raise ForeignError(f"{path}: saved with a method that this version does not have ({error})") from error
