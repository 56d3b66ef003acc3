"""Books as one flat array of tokens on disk, made once for each tokenizer and list of files, and mapped into memory.

The folder of a corpus appears whole or not at all, whoever else makes it at the same time. Its name is a digest of all
that decides what is in it, so a file or tokenizer that changes leads to another folder; old ones may be deleted.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import Int64, Shaped

from everlong import environment
from everlong.errors import ConfigError, InputError, SaveError, one_line
from everlong.models.fingerprint import tokenizer_digest
from everlong.text.haystack import book
from everlong.text.tokenize import pieces
from everlong.train.data.task import Progress

CACHE_HELP = "folder for the tokenised books (empty: books in EVERLONG_CACHE, else in ~/.cache/everlong)"
TOKENS = "tokens.npy"
STARTS = "starts.npy"
_FORM = 1
"""Raised whenever the same files would give other tokens."""
_PIECE_CHARS = 1 << 16
_UNKNOWN = 0.1

Part = Literal["all", "train", "test"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens [N] of all books, uint16 or uint32, and where each of the K - 1 books starts and the last one ends [K]."""

    tokens: Shaped[np.ndarray, " N"]
    starts: Int64[np.ndarray, " K"]

    def around(self, start: int, tokens: int) -> Int64[np.ndarray, " T"]:
        """So many tokens from `start` on, the first behind the last."""
        N = len(self.tokens)
        if start >= 0 and start + tokens <= N:
            return self.tokens[start : start + tokens].astype(np.int64)
        return self.tokens[np.arange(start, start + tokens) % N].astype(np.int64)


def book_files(data: str | Path) -> list[Path]:
    """The *.txt files of a folder by name, or the one file; `$NAME` in the path is an environment variable.

    InputError if there is none.
    """
    place = Path(os.path.expandvars(data)).expanduser()
    if not place.exists():
        unset = "; the environment variable is not set" if "$" in str(place) else ""
        raise InputError(f"data={data}: no such file or folder{unset}; give the folder with the books")
    found = [place] if place.is_file() else sorted(file for file in place.glob("*.txt") if file.is_file())
    if not found:
        raise InputError(f"data={data}: has no *.txt; give the folder with the books")
    return found


def book_text(file: Path) -> str:
    """The book in a file: UTF-8, or else Latin-1, as older files of Project Gutenberg are.

    InputError if it cannot be read, is no text, or empty.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error}); check the file") from None
    if b"\0" in raw:
        raise InputError(f"{file}: is no text (it has a zero byte); remove the file, or convert it first")
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        content = raw.decode("latin-1")
    content = book(content.replace("\r\n", "\n").replace("\r", "\n"))
    if not content:
        raise InputError(f"{file}: is empty; expected the text of a book: remove the file")
    return content


def part_of(files: Sequence[Path], part: Part, held_out: float) -> list[Path]:
    """The files for training or testing: a digest of its name decides where one belongs, so others hardly matter.

    At least one file is on either side. ConfigError where that cannot be.
    """
    if part == "all":
        return list(files)
    order = sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())
    count = max(1, round(held_out * len(order)))
    if count >= len(order):
        raise ConfigError(
            f"part={part}: held_out={held_out:g} of {len(order)} files leaves none to train on; give more"
        )
    return sorted(order[:count] if part == "test" else order[count:])


def tokenised(
    files: Sequence[Path],
    tokenizer: Any,
    cache: str | Path = "",
    flat: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """The corpus of these files, made now if it is not in the folder `cache`.

    `flat`: all white space is made single spaces. `progress` is told of each file when it is made. InputError for a
    file that is no book, SaveError where the folder cannot be written.
    """
    files = list(files)
    root = Path(cache).expanduser() if str(cache) else environment.cache() / "books"
    place = root / _digest(files, tokenizer, flat)
    if not (place / STARTS).is_file():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _make(place, files, tokenizer, flat, progress)
        except OSError as error:
            raise SaveError(
                f"cache={root}: cannot be written ({error.strerror or error}); give another folder"
            ) from None
    return _read(place)


@functools.lru_cache(maxsize=8)
def opened(
    tokenizer: Any, data: str, cache: str, flat: bool = False, part: Part = "all", held_out: float = 0.0
) -> Corpus:
    """The corpus of a folder or of a part of it, looked up once in a process: files that change later do not matter."""
    return tokenised(part_of(book_files(data), part, held_out), tokenizer, cache, flat)


def _read(place: Path) -> Corpus:
    """The corpus in a folder; InputError if it is damaged."""
    try:
        corpus = Corpus(np.load(place / TOKENS, mmap_mode="r"), np.load(place / STARTS))
        if int(corpus.starts[-1]) == len(corpus.tokens):
            return corpus
        reason = f"{len(corpus.tokens)} tokens, expected {corpus.starts[-1]}"
    except (OSError, ValueError, EOFError) as error:
        reason = one_line(error, 80)
    raise InputError(f"{place}: damaged ({reason}); remove this folder, and it is made again")


def _make(place: Path, files: Sequence[Path], tokenizer: Any, flat: bool, progress: Progress | None) -> None:
    """The folder of a corpus, under another name until it is whole."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as folder:
        draft = Path(folder) / place.name
        draft.mkdir()
        with (draft / TOKENS).open("wb") as out:
            starts = _write(out, files, tokenizer, flat, progress)
        np.save(draft / STARTS, np.array(starts, np.int64))
        try:
            draft.rename(place)
        except OSError:
            if not (place / STARTS).is_file():
                raise


def _write(out: IO[bytes], files: Sequence[Path], tokenizer: Any, flat: bool, progress: Progress | None) -> list[int]:
    """Write an .npy file with the tokens of all books, a piece of a book at a time; give the starts."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32)
    _header(out, dtype, 0)
    starts = [0]
    for done, file in enumerate(files, start=1):
        content = book_text(file)
        total = unknown = 0
        for ids in pieces([" ".join(content.split()) if flat else content], tokenizer, piece_chars=_PIECE_CHARS):
            out.write(np.array(ids, dtype).tobytes())
            total = total + len(ids)
            unknown = unknown + ids.count(tokenizer.unk_token_id)
        if unknown > _UNKNOWN * total:
            raise InputError(
                f"{file}: {unknown} of its {total} tokens are unknown to the tokenizer; take one trained on books"
            )
        starts.append(starts[-1] + total)
        if progress is not None:
            progress(done, len(files))
    out.seek(0)
    _header(out, dtype, starts[-1])
    return starts


def _header(out: IO[bytes], dtype: np.dtype, tokens: int) -> None:
    """The header of an array of so many tokens; numpy leaves room in it for the number to grow."""
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (tokens,)}
    np.lib.format.write_array_header_1_0(out, shape)


def _digest(files: Sequence[Path], tokenizer: Any, flat: bool) -> str:
    """A name for the tokens of these files: names, sizes and times of change, tokenizer, form."""
    try:
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from None
    described = json.dumps([_FORM, tokenizer_digest(tokenizer), flat, states])
    return hashlib.sha256(described.encode()).hexdigest()[:32]
