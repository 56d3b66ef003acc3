"""GGUF files: weights straight from the file, each time; configuration and tokenizer kept beside in a cache.

Making a tokenizer of a file's vocabulary takes longer than reading it from where it was kept, a few MB. An entry of the
cache is named by a sample of the file's bytes and the version of transformers, is written under a temporary name and
renamed when complete, and lists the fingerprints of its files, so that a damaged one is made again.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from everlong.environment import cache
from everlong.errors import EverlongError, LoadError, one_line
from everlong.models import gguf_outline
from everlong.models.gguf_header import read_header
from everlong.models.gguf_model import make
from everlong.models.gguf_outline import read_config
from everlong.models.gguf_tensors import is_read_here
from everlong.models.packed_linear import pack_model
from everlong.models.weights import FULL

logger = logging.getLogger(__name__)

_SAMPLES = 64
_SAMPLE_BYTES = 65536
_LISTING = "everlong.json"
_COPIED = ("model.safetensors", "model.safetensors.index.json", "packed.safetensors")
"""Files of entries that hold weights, which entries of this version do not."""


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
    """Where configurations and tokenizers are kept: below EVERLONG_CACHE, else ~/.cache/everlong."""
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


def read(path: Path, dtype: torch.dtype, weights: str = FULL) -> tuple[Any, Any]:
    """The model of a GGUF file and its tokenizer: packed layers as `weights` asks, all else in `dtype`.

    LoadError for a file that is damaged or that transformers cannot read.
    """
    from transformers import AutoConfig, GenerationConfig

    with _described(path) as folder:
        tokenizer = tokenizer_in(folder)
        config = AutoConfig.from_pretrained(folder)
        generation = GenerationConfig.from_pretrained(folder)
    with _refusals(path):
        header = read_header(path)
        if is_read_here(header):
            model = make(path, header, config, dtype, weights)
        else:
            model = by_transformers(path, dtype)
            pack_model(model, weights)
    model.generation_config = generation
    return model, tokenizer


def read_tokenizer(path: Path) -> Any:
    """The tokenizer of a GGUF file; LoadError where there is none that transformers reads."""
    with _described(path) as folder:
        return tokenizer_in(folder)


def tokenizer_in(folder: Path) -> Any:
    """The tokenizer that was kept in a folder."""
    from transformers import AutoTokenizer

    with _without_collections():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def _without_collections() -> Iterator[None]:
    """No search for garbage: among the hundred thousands of objects that a vocabulary is, it finds none for .4 s."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def by_transformers(path: Path, dtype: torch.dtype) -> Any:
    """The model as transformers itself reads it from the file, every weight unpacked to `dtype`."""
    from transformers import AutoModelForCausalLM, GgufConfig

    if importlib.util.find_spec("accelerate") is None:
        raise LoadError(f"{path}: transformers reads GGUF files with accelerate; run `pip install accelerate`")
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return AutoModelForCausalLM.from_pretrained(**source, dtype=dtype, quantization_config=GgufConfig(dequantize=True))


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A folder with the model in float32, as programs that read no GGUF want it; gone when it was used."""
    with tempfile.TemporaryDirectory(prefix="everlong-") as folder:
        model, tokenizer = read(path, torch.float32)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        yield Path(folder)


def copies() -> dict[Path, int]:
    """Unpacked and packed copies of models that earlier versions kept in the cache, with their bytes."""
    entries = (file.parent for name in _COPIED for file in cache_folder().glob(f"*/{name}"))
    return {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in sorted(set(entries))}


@contextmanager
def _described(path: Path) -> Iterator[Path]:
    """A folder with the configuration and the tokenizer of a GGUF file: of the cache, made now if need be.

    Where the cache cannot be written, a temporary one.
    """
    try:
        kept: Path | None = _kept(path)
    except OSError as error:
        kept = None
        logger.warning("%s: its tokenizer cannot be kept in %s (%s)", path.name, cache_folder(), one_line(error, 100))
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="everlong-") as folder:
        _describe(path, Path(folder))
        yield Path(folder)


def _kept(path: Path) -> Path:
    import transformers

    key = hashlib.sha256(f"2 {fingerprint(path)} {transformers.__version__}".encode()).hexdigest()[:16]
    folder = cache_folder() / f"{path.stem}-{key}"
    if not _is_whole(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
            logger.info("reading the tokenizer of %s, once", path.name)
            new = Path(partial) / "new"
            new.mkdir()
            _describe(path, new)
            _list(new)
            _put_in_place(Path(partial), folder)
    return folder


def _describe(path: Path, folder: Path) -> None:
    """Write configuration and tokenizer into `folder`."""
    from transformers import GenerationConfig

    with _refusals(path):
        header = read_header(path)
        config = read_config(path, header)
        tokenizer = gguf_outline.read_tokenizer(path, header)
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What transformers and torch raise over a file, as a LoadError."""
    try:
        yield
    except (EverlongError, OSError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise LoadError(
            f"{path}: transformers cannot read this GGUF file ({reason}); it is damaged or of an architecture "
            "not supported: download it again, or give a transformers folder"
        ) from error


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
