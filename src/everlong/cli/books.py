"""Books and letters in archives: the chapters of an EPUB, a DOCX as HTML, the tree of an ODT."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote
from zipfile import BadZipFile, ZipFile

from everlong.cli.opened import Opened

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"


def chapters(file: Opened) -> Iterator[bytes]:
    """The pages of an EPUB in the order in which they are read, without its table of contents."""
    with _archive(file, "an EPUB") as archive:
        package = _xml(archive.read(_CONTAINER)).xpath("string(//*[local-name()='rootfile']/@full-path)")
        root = _xml(archive.read(package))
        folder = posixpath.dirname(package)
        locked = archive.read(_ENCRYPTION).decode("utf-8", "replace") if _ENCRYPTION in archive.namelist() else ""
        items = {item.get("id"): item for item in root.xpath("//*[local-name()='manifest']/*[local-name()='item']")}
        for ref in root.xpath("//*[local-name()='spine']/*[local-name()='itemref']"):
            item = items[ref.get("idref")]
            if ref.get("linear") == "no" or "nav" in (item.get("properties") or "").split():
                continue
            name = posixpath.normpath(posixpath.join(folder, unquote(item.get("href"))))
            if f'"{name}"' in locked:
                raise file.refuse("protected (DRM); give an edition without protection")
            yield archive.read(name)


def docx_html(file: Opened) -> str:
    """A DOCX as HTML, pictures left out."""
    import mammoth

    with _archive(file, "a DOCX"), file.path.open("rb") as opened:
        without = mammoth.images.img_element(lambda image: {"src": ""})
        return mammoth.convert_to_html(opened, convert_image=without).value


def odt_root(file: Opened) -> Any:
    """The tree of the text of an ODT."""
    with _archive(file, "an ODT") as archive:
        return _xml(archive.read("content.xml")).xpath("//*[local-name()='body']")[0]


@contextmanager
def _archive(file: Opened, kind: str) -> Iterator[ZipFile]:
    """The open archive; InputError where it is none, or does not hold what its kind must."""
    from lxml.etree import LxmlError

    try:
        with ZipFile(file.path) as archive:
            yield archive
    except (BadZipFile, EOFError, LookupError, LxmlError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, type(file.refuse(""))):
            raise
        raise file.refuse(f"not {kind} file, or damaged ({error}); give another") from None


def _xml(content: bytes) -> Any:
    from lxml import etree

    return etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True))
