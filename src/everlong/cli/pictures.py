"""Pictures among the files that are read: image files, and those in the pages of PDF files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from everlong.cli.amounts import several
from everlong.cli.console import Console
from everlong.cli.documents import Chosen, File
from everlong.cli.opened import Opened, missing, quiet
from everlong.errors import InputError, one_line
from everlong.session.session import Session
from everlong.text.images import image_digest, opened_image
from everlong.text.transcript import GONE

logger = logging.getLogger(__name__)

_SMALLEST = 16
"""Pictures of fewer points across are rules and bullets."""


def pictures(found: Chosen, named: Collection[str], console: Console) -> Iterator[tuple[str, Any]]:
    """The (name of its source, image of Pillow) of the image files, and of the pictures in PDF files, page by page.

    InputError for a file that was `named` and is no image; others that cannot be read, found in a folder or in a PDF
    file, are told and left out.
    """
    for file in found.pictures:
        try:
            image = opened_image(file.path)
        except (InputError, OSError) as error:
            if file.called in named:
                raise
            console.warn(f"{one_line(error)}; left out")
            continue
        yield file.name, image
    for file in found.files:
        if file.path.suffix.lower() == ".pdf":
            yield from _of_pdf(file, console)


def read_pictures(session: Session, found: Iterable[tuple[str, Any]], console: Console) -> int:
    """Read the pictures that were not read before, and keep the session; how many.

    What a picture was that has changed is forgotten, where the session's method can.
    """
    count = 0
    for name, image in found:
        old = [s for s in session.transcript.sources if s.name == name and s.digest != GONE]
        if any(s.digest == image_digest(image) for s in old):
            console.note(f"{name}: read already")
            continue
        for source in old if session.method.answers else ():
            session.forget_source(source)
        tokens = session.feed(image, source=name)
        console.note(f"{name}: {several(tokens, 'token')} of a picture read")
        session.checkpoint()
        count += 1
    return count


def _of_pdf(file: File, console: Console) -> Iterator[tuple[str, Any]]:
    try:
        from pypdf import PdfReader
    except ImportError:
        raise missing(Opened(file.path, file.called, None, [], console.note), "pypdf") from None
    quiet()
    lost = 0
    for number, page in enumerate(PdfReader(file.path).pages, 1):
        try:
            images = list(page.images)
        except Exception as error:  # noqa: BLE001 what a damaged picture raises is not told
            logger.info("%s page %d: %s", file.called, number, one_line(error))
            lost += 1
            continue
        for n, image in enumerate(images, 1):
            shown: Any = image.image
            if shown is None or min(shown.size) < _SMALLEST:
                continue
            try:
                yield f"{file.name}, page {number}, picture {n}", opened_image(shown)
            except (InputError, OSError, ValueError) as error:
                logger.info("%s page %d: %s", file.called, number, one_line(error))
                lost += 1
    if lost:
        console.warn(f"{file.called}: {several(lost, 'picture')} cannot be read, left out")
