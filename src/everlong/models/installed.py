"""The models that are on this machine, found without loading any: the default one, those that come along, files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from everlong.environment import home
from everlong.errors import LoadError
from everlong.models import gguf, memory_config, retrieval_heads
from everlong.models.gguf_header import read_header
from everlong.models.load import DEFAULT, DEFAULT_HUB_ID, DEFAULT_PACKAGE, OWN, SHIPPED

_WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of architectures end that write text."""
NOTES = {
    DEFAULT: "the default: small and quick, to see how all of it works; it does not answer questions well",
    f"{OWN}delta-names": "shows a trained memory that knows whose: it finds keys by names, and knows nothing else",
    f"{OWN}infini-passkey": "shows a trained memory of constant size: it finds pass keys, and knows nothing else",
}


@dataclass(frozen=True)
class Installed:
    """A model that is here: `name` is what --model takes.

    `bytes` on the disk; `parameters` and `context_tokens` (what it was trained to see at once) are None where its files
    do not say. `calibrated`: its retrieval heads are known, by the name that it was calibrated under. `memory` is the
    method of its trained memory.
    """

    name: str
    path: str
    bytes: int
    parameters: int | None = None
    context_tokens: int | None = None
    calibrated: bool = False
    memory: str | None = None
    note: str = ""


def installed(folders: Iterable[Path] = ()) -> list[Installed]:
    """The models in the usual places ($EVERLONG_HOME, the cache of the hub) and in these folders, each once."""
    found: dict[str, Installed] = {}
    for name, path in _places(folders):
        if (model := _looked_at(name, path)) is not None:
            found.setdefault(str(path.resolve()), model)
    return list(found.values())


def _places(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Names and paths of what may be models."""
    if (default := gguf.package_gguf(DEFAULT_PACKAGE)) is not None:
        yield DEFAULT, default
    for folder in sorted(SHIPPED.glob("*/config.json")):
        yield f"{OWN}{folder.parent.name}", folder.parent
    for name, path in _hub():
        yield (DEFAULT if name == DEFAULT_HUB_ID and default is None else name), path
    for folder in (home(), home() / "models", *folders):
        for path in (folder, *sorted(folder.iterdir())) if folder.is_dir() else (folder,):
            yield str(path), path


def _hub() -> Iterator[tuple[str, Path]]:
    """What was downloaded from the hub: the newest snapshot of each model."""
    from huggingface_hub import constants

    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        snapshots = sorted(folder.glob("snapshots/*"), key=lambda path: path.stat().st_mtime)
        if not snapshots:
            continue
        yield folder.name.removeprefix("models--").replace("--", "/"), snapshots[-1]
        for path in sorted(snapshots[-1].glob("*.gguf")):
            yield str(path), path


def _looked_at(name: str, path: Path) -> Installed | None:
    """What the files at `path` say of a model; None where there is none that writes text."""
    try:
        if path.is_file() and path.suffix == ".gguf":
            return _from_gguf(name, path)
        return _from_folder(name, path) if (path / "config.json").is_file() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def _from_gguf(name: str, path: Path) -> Installed:
    header = read_header(path)
    facts = path.stat().st_size, header.parameters, header.context_tokens
    return Installed(name, str(path), *facts, _is_calibrated(name, path), note=NOTES.get(name, ""))


def _from_folder(name: str, path: Path) -> Installed | None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config = config.get("base", config)
    weights = [file for pattern in ("*.safetensors", "*.bin") for file in sorted(path.glob(pattern))]
    if not weights or not any(str(kind).endswith(_WRITES) for kind in config.get("architectures") or ()):
        return None
    text = config.get("text_config", config)
    context = text.get("max_position_embeddings")
    size = sum(file.stat().st_size for file in weights)
    facts = size, _parameters(weights), context if isinstance(context, int) else None
    return Installed(name, str(path), *facts, _is_calibrated(name, path), _memory(path), NOTES.get(name, ""))


def _parameters(files: Iterable[Path]) -> int | None:
    """The numbers in safetensors files, by their headers; None where there are others, or packed weights."""
    total = 0
    for file in files:
        if file.suffix != ".safetensors":
            return None
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
        tensors = [tensor for tensor_name, tensor in header.items() if tensor_name != "__metadata__"]
        if any(tensor["dtype"] in ("U8", "I32") for tensor in tensors):
            return None
        total += sum(prod(tensor["shape"]) for tensor in tensors)
    return total


def _memory(path: Path) -> str | None:
    """The method of a trained memory in the folder."""
    try:
        return memory_config.read(path)["method"]["name"] if (path / memory_config.CONFIG).is_file() else None
    except LoadError:
        return None


def _is_calibrated(name: str, path: Path) -> bool:
    """Whether there are retrieval heads that were found under this name or path."""
    return any(said == name or (said and Path(said).resolve() == path.resolve()) for said in retrieval_heads.known())
