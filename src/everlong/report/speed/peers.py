"""Other programs that run the same model, as readers: llama.cpp and onnxruntime-genai, where their packages are there.

llama.cpp reads the GGUF file itself. onnxruntime-genai gets 4-bit weights, made once by its own builder of the
unpacked folder and kept in everlong's cache under the fingerprint of what it was made of.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from everlong.environment import cache
from everlong.errors import CapabilityError, one_line
from everlong.models import gguf
from everlong.models.load import DEFAULT, DEFAULT_PACKAGE, Loaded, model_folder
from everlong.report.speed.readers import Reader, TransformersReader

LLAMA = "llama.cpp"
GENAI = "onnxruntime-genai"
PEERS = (TransformersReader.name, LLAMA, GENAI)
_MODULES = {LLAMA: "llama_cpp", GENAI: "onnxruntime_genai"}
_PACKAGES = {LLAMA: "llama-cpp-python", GENAI: GENAI}
_TRIED = 8
_BUILDER = "onnxruntime_genai.models.builder"

Make = Callable[[Sequence[int], int, int], Reader]
"""A reader behind a context (ids), for chunks of so many tokens, with room for so many more."""


def peer_of(name: str, loaded: Loaded, stock: Any, threads: int) -> Make:
    """What makes readers of the peer `name`, tried once; CapabilityError where it cannot run this model."""
    make = _maker(name, loaded, stock, threads)
    try:
        make(range(_TRIED), _TRIED, _TRIED).close()
    except Exception as error:
        raise CapabilityError(
            f"{name}: cannot run this model ({one_line(error, 160)}); leave it out of --peers"
        ) from error
    return make


def _maker(name: str, loaded: Loaded, stock: Any, threads: int) -> Make:
    """The same, not tried; CapabilityError where the peer is not installed or does not read such files."""
    if name == TransformersReader.name:
        return lambda ids, chunk, room: TransformersReader(stock, ids, chunk)
    if importlib.util.find_spec(_MODULES[name]) is None:
        raise CapabilityError(
            f"{name}: is not installed; pip install 'everlong[bench]' (llama.cpp compiles for minutes)"
        )
    file = gguf_file(loaded.name)
    if name == LLAMA:
        if file is None:
            raise CapabilityError(
                f"{LLAMA}: reads GGUF files alone, and {one_line(loaded.name, 100)} is none; leave it out"
            )
        return lambda ids, chunk, room: LlamaReader(file, ids, chunk, room, threads)
    folder = genai_folder(file if file is not None else model_folder(loaded.name))
    return lambda ids, chunk, room: GenaiReader(folder, ids, room, threads)


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a model's name stands for, if it is one."""
    path = Path(name).expanduser()
    if name == DEFAULT and not path.exists():
        return gguf.package_gguf(DEFAULT_PACKAGE)
    return path.absolute() if path.is_file() and gguf.is_gguf(path) else None


class LlamaReader:
    """llama.cpp by llama-cpp-python, with the weights that the file has."""

    name = LLAMA

    def __init__(self, file: Path, ids: Sequence[int], chunk: int, room: int, threads: int) -> None:
        llama: Any = importlib.import_module("llama_cpp")
        with contextlib.redirect_stderr(io.StringIO()):
            self._model = llama.Llama(
                str(file),
                n_ctx=len(ids) + room,
                n_batch=chunk,
                n_ubatch=chunk,
                n_threads=threads,
                n_threads_batch=threads,
                verbose=False,
            )
        self._context = len(ids)
        self.read(ids)

    def read(self, ids: Sequence[int]) -> None:
        """In batches."""
        self._model.eval(list(ids))

    def decode(self, ids: Sequence[int]) -> None:
        """One batch for each."""
        for token in ids:
            self._model.eval([token])

    def back(self) -> None:
        """The next batch takes what is behind the context out of the cache."""
        self._model.n_tokens = self._context

    def close(self) -> None:
        """Free the model."""
        self._model.close()


class GenaiReader:
    """onnxruntime-genai with 4-bit weights."""

    name = GENAI

    def __init__(self, folder: Path, ids: Sequence[int], room: int, threads: int) -> None:
        genai: Any = importlib.import_module("onnxruntime_genai")
        config = genai.Config(str(folder))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        model = genai.Model(config)
        params = genai.GeneratorParams(model)
        length = len(ids) + room
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        self._generator = genai.Generator(model, params)
        self._context = len(ids)
        self._last = ids[-1]
        self.read(ids)

    def read(self, ids: Sequence[int]) -> None:
        """One forward."""
        self._generator.append_tokens(np.array(ids, dtype=np.int32))

    def decode(self, ids: Sequence[int]) -> None:
        """As many tokens of its own, since that is its faster way; the ids do not matter for time."""
        for _ in ids:
            self._generator.generate_next_token()

    def back(self) -> None:
        """Rewind, and read the last token of the context again for its logits."""
        self._generator.rewind_to(self._context - 1)
        self.read([self._last])

    def close(self) -> None:
        """Free the model."""
        del self._generator


def genai_folder(source: Path | None) -> Path:
    """The folder of onnxruntime-genai's form of the model in `source`, a folder or a GGUF file, made now if need be."""
    if source is None:
        raise CapabilityError(f"{GENAI}: is made from a folder or a GGUF file; give one, or leave it out of --peers")
    files = [source] if source.is_file() else sorted(file for file in source.iterdir() if file.is_file())
    marks = [f"{file.name} {gguf.fingerprint(file)}" for file in files]
    key = hashlib.sha256(" ".join([version(GENAI), *marks]).encode()).hexdigest()[:16]
    folder = cache() / "genai" / f"{source.stem if source.is_file() else source.name}-{key}"
    if not (folder / "genai_config.json").is_file():
        with gguf.unpacked(source) if source.is_file() else nullcontext(source) as whole, _partial(folder) as partial:
            _build(whole, partial)
    return folder


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` when all is well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        yield Path(partial) / "new"
        shutil.rmtree(folder, ignore_errors=True)
        (Path(partial) / "new").rename(folder)


def _build(source: Path, folder: Path) -> None:
    """Let the builder write its form of the model, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", _BUILDER, "-i", str(source), "-o", str(folder), "-c", scratch]
        ran = subprocess.run([*command, "-p", "int4", "-e", "cpu"], capture_output=True, text=True, check=False)
    if ran.returncode or not (folder / "genai_config.json").is_file():
        last = one_line((ran.stderr.strip().splitlines() or ["no word"])[-1], 160)
        raise CapabilityError(f"{GENAI}: its builder cannot convert this model ({last}); leave it out of --peers")


def peer_versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of peers' packages."""
    return {name: version(_PACKAGES[name]) for name in names if name in _PACKAGES}
