"""Samples that explain a score, as parts of a page: those that were not judged, and those with the lowest scores."""

from __future__ import annotations

import json
from typing import Any

from everlong.report import figures
from everlong.report.markup import Html, element, joined
from everlong.report.tables import Record, Table, TableRow, grouped

WORST = 3
"""Samples of each method that are shown."""
CLIP = 600
"""Characters of a text that are shown."""


def refusals(table: Table) -> Html | None:
    """Why samples were not judged, each reason once; None where all were."""
    reasons = grouped(
        (
            (row.label, r["status"], r.get("note") or "")
            for row in table.rows
            for r in row.records
            if r["status"] != "ok"
        ),
        lambda reason: reason[:2],
    )
    if not reasons:
        return None
    items = [
        element(
            "li", element("b", label), f": {len(found)} {status}", element("span", f" ({found[0][2]})", class_="dim")
        )
        for (label, status), found in reasons.items()
    ]
    return joined([element("h3", "Not judged"), element("ul", *items, class_="note")])


def worst(table: Table) -> Html | None:
    """The samples with the lowest scores, folded; None where every sample has the full score."""
    shown = []
    below = 0
    for row in table.rows:
        found = [r for r in row.records if r["score"] is not None and r["score"] < 1]
        below += len(found)
        found = sorted(found, key=lambda r: r["score"])[:WORST]
        shown += [_sample(row, record, table.perplexity) for record in found]
    if not shown:
        return None
    all_told = f", {below} below the full score" if not table.perplexity else ""
    summary = element("summary", f"Worst samples ({len(shown)} shown{all_told})")
    return element("details", summary, element("div", *shown))


def _sample(row: TableRow, record: Record, perplexity: bool) -> Html:
    score = 1 / record["score"] if perplexity and record["score"] else record["score"]
    length = "" if record["length"] is None else f"{figures.tokens(record['length'])} tokens"
    depth = "" if record["depth"] is None else f"depth {record['depth']:g}"
    name = " ".join(filter(None, (record["group"], record["id"], record["part"])))
    words = [figures.number(score, perplexity), name, length, depth]
    texts = {"predicted": record["prediction"], "gold": record["gold"]}
    pairs = [(element("dt", name), element("dd", clipped(text))) for name, text in texts.items() if text is not None]
    head = element("p", element("b", row.label), " · ", " · ".join(filter(None, words)))
    return element("div", head, element("dl", *(part for pair in pairs for part in pair)), class_="sample")


def clipped(text: Any) -> str:
    """A prediction or right answers as text that is not too long."""
    if isinstance(text, list):
        text = " | ".join(str(one) for one in text)
    elif not isinstance(text, str):
        text = json.dumps(text, ensure_ascii=False)
    return text if len(text) <= CLIP else f"{text[:CLIP]}… ({len(text):,} characters)"
