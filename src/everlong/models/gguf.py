"""GGUF files: unpacked once by transformers, then kept as a plain transformers folder in a cache.

Unpacking 135M parameters takes half a minute, loading the folder half a second. An entry of the cache is
named by a sample of the file's bytes and the version of transformers, is written under a temporary name and
renamed when complete, and lists the fingerprints of its files, so that a damaged one is made again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from everlong.environment import cache
from everlong.errors import LoadError, one_line

logger = logging.getLogger(__name__)

_SAMPLES = 64
_SAMPLE_BYTES = 65536
_LISTING = "everlong.json"


def package_gguf(package: str) -> Path | None:
    """The one GGUF file that an installed Python package carries (it is not imported), or None."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


def is_gguf(path: Path) -> bool:
    """Whether the file begins as GGUF files do."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def cache_folder() -> Path:
    """Where converted models are kept: below EVERLONG_CACHE, else ~/.cache/everlong."""
    return cache() / "gguf"


def fingerprint(path: Path) -> str:
    """A hash of the file's size and of 64 samples of 64 KiB spread over it, the first and last included."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    last = max(size - _SAMPLE_BYTES, 0)
    with path.open("rb") as file:
        for offset in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def converted(path: Path, form: str = "", convert: Callable[[Path, Path], None] | None = None) -> Path:
    """The folder of the cache that holds the model of the GGUF file `path`, made now if need be.

    `convert(path, folder)` writes it, for another `form` than the float32 model.

    Raises LoadError when transformers cannot read the file, OSError when the cache cannot be written.
    """
    import transformers

    key = hashlib.sha256(f"1 {fingerprint(path)} {transformers.__version__}{form}".encode()).hexdigest()[:16]
    folder = cache_folder() / f"{path.stem}-{key}"
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
            logger.info("converting %s, once (about a minute)", path.name)
            (convert or _convert)(path, Path(partial) / "new")
            _list(Path(partial) / "new")
            _put_in_place(Path(partial), folder)
    return folder


def read(path: Path, dtype: Any) -> tuple[Any, Any]:
    """The model, every weight unpacked to `dtype`, and the tokenizer of a GGUF file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if importlib.util.find_spec("accelerate") is None:
        raise LoadError(f"{path}: transformers reads GGUF files with accelerate; run `pip install accelerate`")
    unpack = GgufConfig(dequantize=True)
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=dtype, quantization_config=unpack)
        return model, AutoTokenizer.from_pretrained(**source)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise LoadError(
            f"{path}: transformers cannot read this GGUF file ({reason}); it is damaged or of an architecture "
            "not supported: download it again, or give a transformers folder"
        ) from error


def _convert(path: Path, folder: Path) -> None:
    """Write the float32 model, its tokenizer and the listing into `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model, tokenizer = read(path, torch.float32)
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path.parent, gguf_file=path.name))
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, state_dict=model.state_dict())
    tokenizer.save_pretrained(folder)


def _list(folder: Path) -> None:
    """Writes the listing of the folder's files."""
    listing = {file.name: fingerprint(file) for file in sorted(folder.iterdir())}
    (folder / _LISTING).write_text(json.dumps(listing, indent=1), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        listing = json.loads((folder / _LISTING).read_text(encoding="utf-8"))
        return all(fingerprint(folder / name) == known for name, known in listing.items())
    except (OSError, ValueError, AttributeError):
        return False


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename the new folder into place; a damaged one goes away, one that another process made stays."""
    if folder.exists() and not _is_whole(folder):
        folder.rename(partial / "damaged")
    try:
        (partial / "new").rename(folder)
    except OSError:
        if not _is_whole(folder):
            raise
