"""The text of documents that are no plain text: pages of the web, PDF, EPUB, DOCX, ODT, notebooks and mail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from everlong.cli.charset import Charset, charset_of_markup
from everlong.cli.mail import message_texts
from everlong.cli.notebook import cell_texts
from everlong.cli.opened import Opened, missing, needed, quiet
from everlong.errors import InputError
from everlong.text.places import PAGE_LEVEL, Place, found_in, heading

Extractor = Callable[[Opened], Iterator[str]]


def extractor(path: Path) -> Extractor | None:
    """What reads a file of this name; None for plain text."""
    return _EXTRACTORS.get(path.suffix.lower())


def _content(file: Opened) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise file.refuse(f"{error.strerror or error}; give a file that can be read") from None


def _decoded(file: Opened, content: bytes) -> str:
    charset: Charset = charset_of_markup(content, file.encoding)
    if charset.how == "guessed":
        file.say(charset.told or "")
    return content.decode(charset.codec, "replace").removeprefix("\ufeff")


def _html(file: Opened) -> Iterator[str]:
    main_text, parsed = needed(file, "trafilatura", "markup", "main_text", "parsed")
    root = parsed(_decoded(file, _content(file)))
    if root is None:
        return
    text, all_chars = main_text(root, file.places)
    if len(text) < all_chars / 2:
        file.say(f"its main text has {len(text):,} of {all_chars:,} characters; menus and the like are left out")
    yield text


def _pdf(file: Opened) -> Iterator[str]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PyPdfError
    except ImportError:
        raise missing(file, "pypdf") from None
    quiet()
    try:
        reader = PdfReader(file.path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise file.refuse("locked by a password; unlock it first (qpdf --decrypt)")
        yield from found_in(_pages(file, reader.pages), file.places, markdown=False)
    except DependencyError as error:
        raise file.refuse(f"locked in a way that needs more ({error}); unlock it first (qpdf --decrypt)") from None
    except (PyPdfError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise file.refuse(f"not a PDF file, or damaged ({error}); give another") from None


def _pages(file: Opened, pages: Any) -> Iterator[str]:
    """The texts of the pages, each of which is a place; one that cannot be read is told and left out."""
    start = 0
    lost = list[int]()
    for number, page in enumerate(pages, 1):
        try:
            text = page.extract_text() + "\n"
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            lost.append(number)
            continue
        file.places.append(Place("page", f"page {number}", start, PAGE_LEVEL))
        yield text
        start += len(text)
    if lost:
        file.say(f"{len(lost)} damaged pages are left out ({', '.join(map(str, lost[:10]))})")


def _epub(file: Opened) -> Iterator[str]:
    (chapters,) = needed(file, "lxml", "books", "chapters")
    parsed, rendered = needed(file, "lxml", "markup", "parsed", "rendered")
    start = 0
    for content in chapters(file):
        root = parsed(_decoded(file, content))
        if root is None:
            continue
        marked = len(file.places)
        text = rendered(root, file.places, start=start)
        if len(file.places) == marked:
            text = "".join(_found(text, file.places, start))
        yield text
        start += len(text)


def _found(text: str, places: list[Place], start: int) -> Iterator[str]:
    """A part of a text that begins at the character `start`; the headings that it seems to have are added."""
    found: list[Place] = []
    yield from found_in([text], found, markdown=False)
    places += [replace(place, start=place.start + start) for place in found]


def _docx(file: Opened) -> Iterator[str]:
    (to_html,) = needed(file, "mammoth", "books", "docx_html")
    parsed, rendered = needed(file, "lxml", "markup", "parsed", "rendered")
    root = parsed(to_html(file))
    if root is None:
        return
    text = rendered(root, file.places)
    yield text if file.places else "".join(_found(text, file.places, 0))


def _odt(file: Opened) -> Iterator[str]:
    (odt_root,) = needed(file, "lxml", "books", "odt_root")
    (rendered,) = needed(file, "lxml", "markup", "rendered")
    text = rendered(odt_root(file), file.places)
    yield text if file.places else "".join(_found(text, file.places, 0))


def _notebook(file: Opened) -> Iterator[str]:
    yield from found_in(cell_texts(file), file.places, markdown=True)


def _mail(file: Opened) -> Iterator[str]:
    start = 0
    for subject, text in message_texts(file):
        file.places.append(heading(subject, start + text.index(f"Subject: {subject}") + len("Subject: "), 1))
        yield text
        start += len(text)


_EXTRACTORS: dict[str, Extractor] = {
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
    ".epub": _epub,
    ".docx": _docx,
    ".odt": _odt,
    ".ipynb": _notebook,
    ".mbox": _mail,
    ".eml": _mail,
}
