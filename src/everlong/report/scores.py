"""How well methods did on one task, as parts of a page: tables of scores and heat maps."""

from __future__ import annotations

from collections.abc import Sequence

from everlong.report import figures
from everlong.report.figures import NOTHING
from everlong.report.markup import Html, element, joined, scrolled
from everlong.report.tables import Place, Table, TableCell, TableRow, grouped

_SHADES = 10


def scores(table: Table) -> Html:
    """Methods by part and length: the mean, n, the 95 % interval, and what was not judged."""
    places = table.places
    with_mean = len(places) > 1
    body = []
    for row in table.rows:
        by_place = row.by_place()
        cells = {place: table.cell(by_place[place]) if place in by_place else None for place in places}
        last = [element("td", figures.number(overall(table, row), table.perplexity))] if with_mean else []
        found = [_score(cell, table.perplexity) for cell in cells.values()]
        body.append(element("tr", element("th", row.label, scope="row"), *found, *last))
    return scrolled(element("thead", *_heads(places, with_mean)), element("tbody", *body))


def overall(table: Table, row: TableRow) -> float | None:
    """The mean over all columns of the table, each counting once; None where the row lacks one.

    For perplexity that of all tokens together.
    """
    by_place = row.by_place()
    cells = [table.cell(by_place[place]) if place in by_place else None for place in table.places]
    values = [cell.value for cell in cells if cell is not None and cell.value is not None]
    if len(values) < len(cells):
        return None
    return table.cell(row.records).value if table.perplexity else sum(values) / len(values)


def _heads(places: Sequence[Place], with_mean: bool) -> list[Html]:
    """One line of headings, or two where parts have lengths."""
    parts = grouped(places, lambda place: place[0])
    lengths = any(length is not None for _, length in places)
    mean = [element("th", "mean")] if with_mean else []
    first = "method"
    if not lengths or list(parts) == [""]:
        names = [part or figures.tokens(length) or "all" for part, length in places]
        return [
            element("tr", element("th", first, class_="head"), *(element("th", n, scope="col") for n in names), *mean)
        ]
    above = [element("th", part or "all", colspan=len(own), class_="part") for part, own in parts.items()]
    below = [element("th", figures.tokens(length) or "all", scope="col") for _, length in places]
    blank = [element("th")] if with_mean else []
    return [
        element("tr", element("th", class_="head"), *above, *blank),
        element("tr", element("th", first, class_="head"), *below, *mean),
    ]


def _score(cell: TableCell | None, perplexity: bool) -> Html:
    if cell is None:
        return element("td", NOTHING, class_="none")
    text = figures.value(cell, perplexity)
    if cell.value is None:
        return element(
            "td", text, element("span", f"{cell.too_long or cell.cannot or ''}", class_="sub"), class_="none"
        )
    words = [f"n {cell.n}", figures.between(cell, perplexity)]
    subs = [element("span", " · ".join(filter(None, words)), class_="sub")]
    if left := figures.missing(cell):
        subs.append(element("span", f"+ {left}", class_="sub"))
    return element("td", text, None if perplexity else _whisker(cell), *subs)


def _whisker(cell: TableCell) -> Html:
    """The mean and its interval on a line from 0 to 1."""
    value = 70 * (cell.value or 0) + 1
    low, high = (value if end is None else 70 * end + 1 for end in (cell.low, cell.high))
    return element(
        "svg",
        element("path", d="M1,4.5H71", class_="axis"),
        element("path", d=f"M{low:.1f},4.5H{high:.1f}", class_="range"),
        element("circle", cx=f"{value:.1f}", cy="4.5", r="2.6", class_="dot"),
        viewBox="0 0 72 9",
        class_="ci",
        aria_hidden="true",
    )


def heat_maps(table: Table) -> Html | None:
    """For each method the score by length (across) and depth (down); None where samples have no depth."""
    deep = [r for row in table.rows for r in row.records if r["depth"] is not None]
    if not deep or table.perplexity:
        return None
    depths = sorted({r["depth"] for r in deep})
    lengths = sorted({r["length"] for r in deep}, key=lambda length: length or 0)
    maps = [element("div", _heat(table, row, depths, lengths), class_="scroll") for row in table.rows]
    steps = element("span", *(element("b", class_=f"h{n}") for n in range(_SHADES + 1)))
    scale = element("div", "0", steps, "100 %", class_="scale", aria_hidden="true")
    parts = len({r["group"] for r in deep})
    note = f"Depth 0 is the start of the text, 1 its end.{f' Mean over {parts} parts.' if parts > 1 else ''}"
    return joined(
        [
            element("h3", "Length and depth"),
            element("p", note, class_="note"),
            element("div", *maps, class_="panels"),
            scale,
        ]
    )


def _heat(table: Table, row: TableRow, depths: Sequence[float], lengths: Sequence[int | None]) -> Html:
    found = grouped(row.records, lambda r: (r["length"], r["depth"]))
    head = element(
        "tr", element("th", "depth"), *(element("th", figures.tokens(n) or "all", scope="col") for n in lengths)
    )
    body = []
    for depth in depths:
        cells = [_shade(table.cell(found[n, depth]) if (n, depth) in found else None) for n in lengths]
        body.append(element("tr", element("th", f"{depth:g}", scope="row"), *cells))
    caption = element("caption", row.label)
    return element("table", caption, element("thead", head), element("tbody", *body), class_="heat")


def _shade(cell: TableCell | None) -> Html:
    if cell is None:
        return element("td", NOTHING, class_="not")
    if cell.value is None:
        return element("td", figures.value(cell, False), class_="not")
    words = f"n {cell.n} · {figures.between(cell, False)}".removesuffix(" · ")
    return element("td", f"{100 * cell.value:.0f}", class_=f"h{round(_SHADES * cell.value)}", title=words)


def further(table: Table) -> Html | None:
    """Means of the metrics beside the score; None where there are none."""
    cells = [(row.label, table.cell(row.records).scores) for row in table.rows]
    names = list(dict.fromkeys(name for _, found in cells for name in found))
    if not names:
        return None
    head = element("tr", element("th", "method", class_="head"), *(element("th", name, scope="col") for name in names))
    rows = [
        element(
            "tr",
            element("th", label, scope="row"),
            *(element("td", figures.number(found.get(n), False)) for n in names),
        )
        for label, found in cells
    ]
    return joined([element("h3", "Further metrics, %"), scrolled(element("thead", head), element("tbody", *rows))])
