"""One safetensors file that is written wholly or not at all, and whose every byte is checked when it is read.

The metadata hold two texts: `document` (JSON) and `digest`, the SHA-256 of the whole file with the digest's
own 64 characters set to "0". So lengths, names, types, shapes, JSON and data are covered, padding included.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from everlong.errors import DamagedError, InputError, SaveError, one_line

_BLANK = b"0" * 64
_FIELD = b'"digest":"'
_BLOCK_BYTES = 2**20
_HEADER_BYTES = 10**8
"""The longest header that safetensors allows."""


def write(path: Path, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    """Write tensors and document to `path`, replacing what stood there only once all is on the disk.

    SaveError on a full disk, a missing or read-only folder; then, and after an interrupt at any moment,
    `path` is as it was before and no other file is left.
    """
    # Clones: safetensors refuses tensors that share memory, as views of one cache do.
    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
        save_file(apart, temporary, {"digest": _BLANK.decode(), "document": text})
        _seal(temporary)
        temporary.replace(path)
        # The new name is on the disk only when the folder is.
        _sync_folder(path.parent)
    except (OSError, SafetensorError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise SaveError(
            f"{path}: {reason}; nothing was written: choose a folder with room that you may write"
        ) from error
    finally:
        _remove(temporary)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the document in `path`.

    InputError for a file that is missing or cannot be opened, DamagedError if a byte is not the one written.
    """
    try:
        with path.open("rb") as file:
            digest, stated, _ = _digest(file)
        if digest != stated:
            raise DamagedError(f"{path}: its bytes are not the ones that were written; restore it from a copy")
        with safe_open(path, framework="pt") as opened:
            document = json.loads(opened.metadata()["document"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, document  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give the path of a saved session") from error
    except (SafetensorError, LookupError, ValueError) as error:
        raise DamagedError(f"{path}: not a saved session, or damaged ({one_line(error, 80)}); give another") from error


def _seal(path: Path) -> None:
    """Put the digest in its place and wait for the disk."""
    with path.open("r+b") as file:
        digest, _, place = _digest(file)
        file.seek(place)
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def _digest(file: BinaryIO) -> tuple[str, str, int]:
    """The digest of an open file, the one that stands in it, and where; ValueError if it has no place for one."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = file.read(8)
    header_bytes = int.from_bytes(length, "little")
    if len(length) < 8 or header_bytes > min(size - 8, _HEADER_BYTES):
        raise ValueError("no safetensors header")
    header = file.read(header_bytes)
    at = header.index(_FIELD) + len(_FIELD)
    found = hashlib.sha256(length + header[:at] + _BLANK + header[at + len(_BLANK) :])
    while block := file.read(_BLOCK_BYTES):
        found.update(block)
    return found.hexdigest(), header[at : at + len(_BLANK)].decode("latin-1"), 8 + at


def _sync_folder(folder: Path) -> None:
    """Wait until the folder's new entry is on the disk, where the system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    """Remove the temporary file if it is still there."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        return
