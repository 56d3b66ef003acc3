"""Text of HTML: one line a paragraph, whatever tags are in it; headings as places, menus left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from everlong.cli.menus import ANCHORS, is_aside, is_main, is_unseen, links_share, plain, tag_of
from everlong.text.places import Place, found_in, heading

_SKIPPED = frozenset({"script", "style", "noscript", "template", "head", "title", "svg", "graphic", "button"})
_SKIPPED_IN_ODT = frozenset({"annotation", "tracked-changes"})
_BLOCK_NAMES = (
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer"
    " form header hr html item li list main nav ol p quote section summary table tbody td tfoot th thead tr ul row cell"
    " doc comments pre list-item table-row table-cell"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_LINKS_SHARE = 0.9
"""A block with more of its text in links may be a menu."""
_HEADINGS = {f"h{n}": n for n in range(1, 7)}
_ITEMS = ("li", "item", "list-item")
_ROWS = ("tr", "row", "table-row")
_CELLS = ("td", "th", "cell", "table-cell")
_LINES = (*_ITEMS, *_ROWS, "dt", "dd")
"""Blocks with a line of their own and no empty line behind them."""
_BREAK = "\v"
"""Stands for a line break that is meant, until the white space of a paragraph is settled."""
_XML = re.compile(r"^\s*<\?xml[^>]*\?>")


def parsed(content: str) -> Any:
    """The tree of an HTML page; None for one without any element."""
    import lxml.html
    from lxml.etree import Comment, LxmlError, ProcessingInstruction, strip_tags

    try:
        root = lxml.html.document_fromstring(_XML.sub("", content))
    except (LxmlError, ValueError):
        return None
    strip_tags(root, Comment, ProcessingInstruction)
    return root


def main_text(root: Any, places: list[Place]) -> tuple[str, int]:
    """The main text of a page, and the characters of all its text; headings are added to `places`.

    What looks like a menu or the like is left out unless trafilatura takes it for main text; all else is kept.
    """
    whole = rendered(root, [])
    body = _extracted(root)
    vouched = frozenset() if body is None else frozenset(rendered(body, []).splitlines())
    text = rendered(root, places, vouched=vouched)
    if not text.strip():
        text = rendered(root, places)
    if not places:
        text = "".join(found_in([text], places, markdown=False))
    return text, len(whole)


def _extracted(root: Any) -> Any:
    """What trafilatura takes for the main text, as its own tree; None where it finds nothing."""
    from trafilatura import bare_extraction
    from trafilatura.settings import use_config

    # Without a least length, which would let short pages fall back to all their text, a line for each tag.
    settings = use_config()
    for name in ("MIN_EXTRACTED_SIZE", "MIN_OUTPUT_SIZE"):
        settings.set("DEFAULT", name, "1")
    page = _with_article(deepcopy(root))
    found: Any = bare_extraction(page, fast=True, favor_recall=True, include_comments=False, config=settings)
    return None if found is None else found.body


def _with_article(root: Any) -> Any:
    """The page with its body as an article, if it marks none: else headings outside of one are lost."""
    body = root.find("body")
    if body is not None and not body.xpath(".//article|.//main"):
        article = body.makeelement("article")
        article.text = body.text
        body.text = None
        article.extend(list(body))
        body.append(article)
    return root


def rendered(root: Any, places: list[Place], start: int = 0, vouched: frozenset[str] | None = None) -> str:
    """The text below an element, which stands at the character `start`.

    Where there are `vouched` lines, what looks like a menu is left out unless it is one of them.
    """
    page = _Page(places, start, vouched)
    page.walk(root)
    page.flush()
    return "".join(page.parts)


class _Page:
    """Text that is written paragraph by paragraph."""

    def __init__(self, places: list[Place], start: int, vouched: frozenset[str] | None) -> None:
        self.parts: list[str] = []
        self._places = places
        self._length = start
        self._vouched = vouched
        self._suspect = False
        self._in_main = False
        self._line: list[str] = []
        self._lead = ""
        self._block = ""
        self._is_line = False

    def walk(self, element: Any) -> None:
        """Write an element and all in it; not what follows it."""
        tag = tag_of(element)
        if (level := _level(element, tag)) is not None:
            self._heading(element, level)
        elif tag in _SKIPPED or tag in _SKIPPED_IN_ODT or is_unseen(element, tag):
            return
        elif tag in ("br", "lb", "line-break"):
            self._line.append(_BREAK)
        elif tag in ("s", "tab") and not len(element) and not element.text:
            self._line.append(" ")
        elif tag in ("pre", "code") and "\n" in "".join(element.itertext()):
            self.flush()
            self._write("".join(element.itertext()).strip("\n"))
        elif tag in _ROWS and not _is_nested(element):
            self.flush()
            cells = [plain("".join(cell.itertext())) for cell in element if tag_of(cell) in _CELLS]
            self._write(" | ".join(cells) if any(cells) else "", is_line=True)
        else:
            self._inside(element, tag)

    def flush(self) -> None:
        """End the paragraph that is being written."""
        text = "\n".join(plain(line) for line in "".join(self._line).split(_BREAK)).strip()
        self._line = []
        if text:
            lead = self._lead
            self._lead = ""
            self._write(lead + text, self._block in _LINES)

    def _inside(self, element: Any, tag: str) -> None:
        around = (self._block, self._suspect, self._in_main)
        is_block = tag in _BLOCKS
        if is_block:
            self.flush()
            self._block = tag
            if self._vouched is not None:
                self._in_main = self._in_main or is_main(element, tag)
                self._suspect = self._suspect or is_aside(element, tag) or self._is_menu(element)
            self._lead = "- " if tag in _ITEMS else self._lead
        self._line.append(element.text or "")
        for child in element:
            self.walk(child)
            self._line.append(child.tail or "")
        if is_block:
            self.flush()
            self._block, self._suspect, self._in_main = around

    def _heading(self, element: Any, level: int) -> None:
        self.flush()
        title = plain("".join(element.itertext()).rstrip("".join(ANCHORS) + " \n"))
        if title and (level == 1 or not self._is_left_out(title)):
            self._write("")
            self._places.append(heading(title, self._length, level))
            self._add(f"{title}\n\n")

    def _write(self, text: str, is_line: bool = False) -> None:
        """Write a block with an empty line behind it; one that `is_line` is followed by its like without."""
        if self._is_left_out(text):
            return
        before = "\n" if self._is_line and not is_line else ""
        self._is_line = is_line if text else self._is_line and not before
        self._add(before + (text + ("\n" if is_line else "\n\n") if text else ""))

    def _is_menu(self, element: Any) -> bool:
        """Whether a block outside of what the page marks as its main part is hardly more than links."""
        return not self._in_main and links_share(element) > _LINKS_SHARE

    def _is_left_out(self, text: str) -> bool:
        """Whether a block looks like a menu, and nothing vouches for it."""
        if not self._suspect or not text or self._vouched is None:
            return False
        return not all(line in self._vouched for line in text.splitlines())

    def _add(self, text: str) -> None:
        self.parts.append(text)
        self._length += len(text)


def _level(element: Any, tag: str) -> int | None:
    """The level of a heading, in HTML, in what trafilatura makes of it, or in ODT."""
    if tag == "head" and element.get("rend"):
        return _HEADINGS.get(element.get("rend"), 1)
    if tag == "h":
        return next((int(value) for name, value in element.items() if name.endswith("}outline-level")), 1)
    return _HEADINGS.get(tag)


def _is_nested(row: Any) -> bool:
    """Whether the cells of a row hold blocks of their own, as in pages that are laid out by tables."""
    return any(tag_of(e) in _HEADINGS or tag_of(e) in ("table", "p", "div", "ul", "ol") for e in _below(row))


def _below(element: Any) -> Iterator[Any]:
    return (e for e in element.iter() if e is not element)
