"""Files, folders and patterns as documents: their names, digests and text."""

from __future__ import annotations

import functools
import glob
import hashlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from everlong.cli.console import Console
from everlong.cli.folders import files_in, is_picture
from everlong.cli.formats import extractor
from everlong.cli.opened import Opened
from everlong.cli.source import TextSource
from everlong.errors import InputError
from everlong.session.document import Document
from everlong.text.places import Place, found_in
from everlong.text.source_names import resolved

_MARKDOWN = (".md", ".markdown", ".txt", "")
"""Where a line that begins with # is a heading; in others it may be a comment."""
_SHOWN_KINDS = 8
SPECIAL = "special+"
"""Before the digest of a file whose control tokens are such: as text it is another content."""


@dataclass(frozen=True)
class File:
    """A file that is to be read: `called` is what was typed or found, `name` that of its source."""

    path: Path
    called: str
    name: str
    encoding: str | None = None
    keeps: Any = field(default=None, compare=False, repr=False)
    """What must live as long as the file: the temporary one of what was piped in."""


@dataclass
class Chosen:
    """The files that are meant, in order, each once; and what was passed over in folders, counted by kind.

    `pictures` are files too, of images, where these are wanted.
    """

    files: list[File] = field(default_factory=list)
    pictures: list[File] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def told(self) -> str | None:
        """What was passed over, in words."""
        if not self.skipped:
            return None
        kinds = [f"{count:,} {kind}" for kind, count in self.skipped.most_common(_SHOWN_KINDS)]
        kinds += ["others"] if len(self.skipped) > _SHOWN_KINDS else []
        return f"{self.skipped.total():,} skipped ({', '.join(kinds)}); a file that is named is read all the same"


def choose(names: list[str], encoding: str | None = None, images: bool = False) -> Chosen:
    """The files that the names mean; InputError for a name that means none, or a file that holds no text.

    With `images` image files are pictures, and not what holds no text. A file that was found in a folder and holds no
    text after all is passed over.
    """
    chosen = Chosen()
    seen = set[str]()
    for name in names:
        for file in _stdin(encoding) if name == "-" else _meant(name, chosen.skipped, encoding, images):
            if file.name in seen:
                continue
            seen.add(file.name)
            if images and is_picture(file.path.name):
                chosen.pictures.append(file)
                continue
            try:
                check(file)
            except InputError:
                if file.called == name or extractor(file.path):
                    raise
                chosen.skipped["no text, whatever their names say"] += 1
                continue
            chosen.files.append(file)
    if not chosen.files and not chosen.pictures:
        raise InputError(f"{', '.join(names)}: no files with text; {chosen.told() or 'give others'}")
    return chosen


def document(file: File | Path, console: Console, allow_special: bool = False) -> Document:
    """A file as a document, opened when its text is asked for; InputError where it cannot be read."""
    file = file_of(file) if isinstance(file, Path) else file
    places: list[Place] = []
    prefix = SPECIAL if allow_special else ""
    content = prefix + digest(file)
    size = None if extractor(file.path) else int(content.rpartition(":")[2])
    found: Any = {"allow_special": allow_special} | ({} if size is None else {"earlier": _earlier(file, prefix)})
    texts = _Text(file, places, functools.cache(functools.partial(_warn, file, console)), size)
    return Document(file.name, content, texts, places, called=file.called, has_lines=size is not None, **found)


def file_of(path: Path, encoding: str | None = None, called: str | None = None) -> File:
    """The file at a path, whose source has its whole path for a name."""
    return File(path, called or str(path), resolved(str(path)), encoding)


def check(file: File) -> None:
    """InputError where a file holds no text; only its beginning is looked at."""
    with closing(_texts(file, [], lambda words: None, None)) as texts:
        next(texts, None)


def digest(file: File, size: int = -1) -> str:
    """SHA-256 of a file, or of its first `size` bytes, and the number of them: HASH:SIZE."""
    found = hashlib.sha256()
    done = 0
    try:
        with file.path.open("rb") as opened:
            while block := opened.read(min(1 << 20, size - done) if size >= 0 else 1 << 20):
                found.update(block)
                done += len(block)
    except OSError as error:
        raise InputError(f"{file.called}: {error.strerror or error}; give a file that can be read") from None
    return f"{found.hexdigest()}:{done}"


def _meant(name: str, skipped: Counter[str], encoding: str | None, images: bool) -> list[File]:
    """The files that a name means."""
    if "://" in name:
        raise InputError(f"{name}: an address; fetch it first, as in `curl -L {name} | everlong read -`")
    path = Path(name)
    paths = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 (absolute patterns)
    if not paths:
        raise InputError(f"{name}: no such file; give files, folders or patterns that exist")
    found = [p for given in paths for p in (files_in(given, skipped, images) if given.is_dir() else [given])]
    return [file_of(p, encoding, name if p == path else None) for p in found]


def _stdin(encoding: str | None) -> list[File]:
    """What is piped in, as a temporary file; its source is named by its content."""
    first = sys.stdin.buffer.read(1 << 20)
    kept: Any = tempfile.NamedTemporaryFile(prefix="everlong-stdin-", suffix=_suffix_of(first))  # noqa: SIM115 (outlives this)
    block = first
    while block:
        kept.write(block)
        block = sys.stdin.buffer.read(1 << 20)
    kept.flush()
    file = File(Path(kept.name), "-", "stdin", encoding, kept)
    return [replace(file, name=f"stdin:{digest(file)[:8]}")]


def _suffix_of(first: bytes) -> str:
    """The suffix that says what is piped in."""
    if first.startswith(b"%PDF-"):
        return ".pdf"
    return ".html" if first.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")) else ".txt"


@dataclass(frozen=True)
class _Text:
    """The text of a file, from its beginning each time it is gone through; `places` has what the last time found."""

    file: File
    places: list[Place]
    say: Callable[[str], None]
    size: int | None

    def __iter__(self) -> Generator[str, None, None]:
        self.places.clear()
        return _texts(self.file, self.places, self.say, self.size)


def _texts(file: File, places: list[Place], say: Callable[[str], None], size: int | None) -> Generator[str, None, None]:
    """The text of a file; what chapters, headings and pages it has is added to `places` as it goes by."""
    extract = extractor(file.path)
    empty = True
    texts = extract(Opened(file.path, _shown(file), file.encoding, places, say)) if extract else None
    for text in _plain(file, places, say, size) if texts is None else texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        say("no text found in it (pictures of pages need OCR first)")


def _plain(file: File, places: list[Place], say: Callable[[str], None], size: int | None) -> Generator[str, None, None]:
    with TextSource(str(file.path), file.encoding, _shown(file), size) as source:
        yield from found_in(source, places, markdown=file.path.suffix.lower() in _MARKDOWN)
        for warning in source.warnings():
            say(warning)


def _earlier(file: File, prefix: str) -> Callable[[str], int | None]:
    """What says how many characters an older content had, where this file begins with it."""

    @functools.cache
    def chars(old: str) -> int | None:
        size = old.rpartition(":")[2]
        if ":" not in old or not size.isdecimal() or prefix + digest(file, int(size)) != old:
            return None
        with TextSource(str(file.path), file.encoding) as source:
            return source.chars(int(size))

    return chars


def _shown(file: File) -> str:
    return "stdin" if file.called == "-" else file.called


def _warn(file: File, console: Console, words: str) -> None:
    console.warn(f"{_shown(file)}: {words}")
