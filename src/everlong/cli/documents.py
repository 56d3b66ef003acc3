"""Files, folders and patterns as documents: their names, digests and text."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlong.errors import CapabilityError, InputError

if TYPE_CHECKING:
    from everlong.cli.console import Console
    from everlong.session.places import Place
    from everlong.session.reading import Document

SUFFIXES = (".txt", ".md", ".html", ".htm", ".pdf")
"""What is read of a folder; a file that is named is taken as text whatever its suffix."""
_MARKDOWN = (".md", ".markdown", ".txt", "")
"""Where a line that begins with # is a heading; in others it may be a comment."""
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


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


def document(path: Path, console: Console, allow_special: bool = False) -> Document:
    """A file as a document, opened when its text is asked for; InputError where it holds no text."""
    from everlong.session.reading import Document

    places: list[Place] = []
    found = digest(path) + (" with control tokens" if allow_special else "")
    return Document(str(path), found, _texts(path, console, places), places, allow_special)


def check(path: Path, console: Console) -> None:
    """InputError where a file holds no text; only its beginning is looked at."""
    with closing(_texts(path, console, [])) as texts:
        next(texts, None)


def _texts(path: Path, console: Console, places: list[Place]) -> Generator[str, None, None]:
    """The text of a file; what chapters, headings and pages it has is added to `places` as it goes by."""
    texts = {".html": _html, ".htm": _html, ".pdf": _pdf}.get(path.suffix.lower())
    return texts(path, places) if texts else _plain(path, console, places)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; give a file that can be read") from None


def _plain(path: Path, console: Console, places: list[Place]) -> Generator[str, None, None]:
    from everlong.cli.source import TextSource
    from everlong.session.places import found_in

    with TextSource(str(path)) as source:
        yield from found_in(source, places, markdown=path.suffix.lower() in _MARKDOWN)
        if warning := source.warning():
            console.warn(warning)


def _html(path: Path, places: list[Place]) -> Generator[str, None, None]:
    try:
        from bs4 import BeautifulSoup, NavigableString

        from everlong.session.places import heading
    except ImportError:
        raise _missing(path, "beautifulsoup4") from None
    soup = BeautifulSoup(path.read_bytes(), "html.parser")
    for part in soup(["script", "style", "noscript", "template"]):
        part.decompose()
    texts: list[str] = []
    length, last = 0, None
    for string in soup.find_all(string=True):
        # Comments and declarations are strings too, of classes of their own.
        text = string.strip() if type(string) is NavigableString else ""
        if not text:
            continue
        mark = string.find_parent(_HEADINGS)
        if mark is not None and mark is not last:
            places.append(heading(mark.get_text(" ", strip=True), length, int(mark.name[1])))
        last = mark
        texts.append(text)
        length += len(text) + 1
    yield "\n".join(texts)


def _pdf(path: Path, places: list[Place]) -> Generator[str, None, None]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError

        from everlong.session.places import found_in
    except ImportError:
        raise _missing(path, "pypdf") from None
    try:
        yield from found_in(_pages(PdfReader(path).pages, places), places, markdown=False)
    except PyPdfError as error:
        raise InputError(f"{path}: not a PDF file, or damaged ({error}); give another") from None


def _pages(pages: Iterable[Any], places: list[Place]) -> Iterator[str]:
    """The texts of the pages, each of which is a place."""
    from everlong.session.places import PAGE_LEVEL, Place

    start = 0
    for number, page in enumerate(pages, 1):
        text = page.extract_text() + "\n"
        places.append(Place("page", f"page {number}", start, PAGE_LEVEL))
        yield text
        start += len(text)


def _missing(path: Path, package: str) -> CapabilityError:
    return CapabilityError(f"{path}: needs {package}; pip install 'everlong[documents]', or give the text as .txt")
