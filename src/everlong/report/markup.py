"""HTML elements whose text is escaped: only what an element gave counts as markup."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: object) -> Html:
    """`text` as HTML, also fit for the value of an attribute; HTML stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def joined(parts: Iterable[object]) -> Html:
    """The parts, one after the other; None and empty ones add nothing."""
    return Html("".join(escaped(part) for part in parts if part is not None))


def element(name: str, *children: object, **attributes: object) -> Html:
    """`<name attributes>children</name>`; an underscore ends an attribute that is a Python word, or is a hyphen.

    >>> element("td", "a < b", class_="n")
    '<td class="n">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def scrolled(*parts: Html) -> Html:
    """A table of these parts that scrolls by itself where it is too wide."""
    return element("div", element("table", *parts), class_="scroll", tabindex="0", role="region", aria_label="table")
