"""Files, folders and patterns as documents: their names, digests and text."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from everlong.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.session.reading import Document

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
"""What is read of a folder; a file that is named is taken as text whatever its suffix."""


def expand(names: list[str]) -> list[Path]:
    """The files that are meant, in order, each once; InputError for a name that means none."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            some = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            some = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 (absolute patterns)
        if not some:
            kinds = f"no {', '.join(SUFFIXES)} files in this folder" if path.is_dir() else "no such file"
            raise InputError(f"{name}: {kinds}; give files, folders or patterns that exist")
        found += [p for p in some if p not in found]
    return found


def document(path: Path, console: Console) -> Document:
    """A file as a document, opened when its text is asked for; InputError where it holds no text."""
    from everlong.session.reading import Document

    return Document(str(path), digest(path), _texts(path, console))


def check(path: Path, console: Console) -> None:
    """InputError where a file holds no text; only its beginning is looked at."""
    with closing(_texts(path, console)) as texts:
        next(texts, None)


def _texts(path: Path, console: Console) -> Generator[str, None, None]:
    texts = {".html": _html, ".htm": _html, ".pdf": _pdf}.get(path.suffix.lower())
    return texts(path) if texts else _plain(path, console)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a file that can be read") from None


def _plain(path: Path, console: Console) -> Generator[str, None, None]:
    from everlong.cli.source import TextSource

    with TextSource(str(path)) as source:
        yield from source
        if warning := source.warning():
            console.warn(warning)


def _html(path: Path) -> Generator[str, None, None]:
    try:
        from bs4 import BeautifulSoup
    except ImportError:
        raise _missing(path, "beautifulsoup4") from None
    soup = BeautifulSoup(path.read_bytes(), "html.parser")
    for part in soup(["script", "style", "noscript", "template"]):
        part.decompose()
    yield soup.get_text("\n", strip=True)


def _pdf(path: Path) -> Generator[str, None, None]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise _missing(path, "pypdf") from None
    try:
        for page in PdfReader(path).pages:
            yield page.extract_text() + "\n"
    except PyPdfError as error:
        raise InputError(f"{path}: not a PDF file, or damaged ({error}); give another") from None


def _missing(path: Path, package: str) -> CapabilityError:
    return CapabilityError(f"{path}: needs {package}; pip install 'everlong[documents]', or give the text as .txt")
