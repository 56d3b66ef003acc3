"""What stands around the text of a page, and what of it a browser does not show."""

from __future__ import annotations

import re
from typing import Any

_ASIDE = frozenset({"nav", "header", "footer", "aside", "form"})
_ASIDE_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "complementary"})
_ASIDE_NAMES = re.compile(
    r"sidebar|(?:^|[\s_-])(?:nav|navbar|navigation|menu|breadcrumbs?|pagination|footer|masthead|cookies?|related|share"
    r"|social|advert|ads?|promo|newsletter)(?:$|[\s_-])",
    re.IGNORECASE,
)
"""What may stand around the text of a page: by its tag, its role, or its class and id."""
ANCHORS = ("¶", "#", "§", "🔗")


def tag_of(element: Any) -> str:
    """The name of an element without its namespace; "" for comments and the like."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def plain(text: str) -> str:
    """The words of a paragraph with single spaces between them."""
    return " ".join(text.split())


def is_main(element: Any, tag: str) -> bool:
    """Whether a page marks this as its main part."""
    return tag in ("main", "article") or element.get("role") == "main"


def is_aside(element: Any, tag: str) -> bool:
    """Whether a block may be a menu, a footer or the like: by its tag, its role, or its class and id."""
    if tag in _ASIDE or element.get("role") in _ASIDE_ROLES:
        return True
    named = tag not in ("html", "body", "main", "article")
    return named and any(_ASIDE_NAMES.search(element.get(name) or "") for name in ("class", "id"))


def links_share(element: Any) -> float:
    """How much of the letters and digits of a block is in links, from 0 to 1."""
    links = sum(_letters(link) for link in element.iter("a"))
    return links / max(1, _letters(element))


def is_unseen(element: Any, tag: str) -> bool:
    """Whether a browser would not show an element, or only as a handle of a heading."""
    if tag == "a" and "".join(element.itertext()).strip() in ANCHORS:
        return True
    return element.get("hidden") is not None or "display:none" in (element.get("style") or "").replace(" ", "")


def _letters(element: Any) -> int:
    return sum(map(str.isalnum, "".join(element.itertext())))
