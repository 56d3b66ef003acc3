"""What a method took: tokens and seconds, memory of the process, and what the cache held in each tier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from everlong.report import figures
from everlong.report.figures import NOTHING
from everlong.report.markup import Html, element, joined, scrolled
from everlong.report.tables import Record, Table, TableRow, grouped

TIERS = ("device", "host", "disk")


@dataclass(frozen=True)
class Cost:
    """Of the samples that were run to their end, or were ended early after some questions."""

    samples: int
    read_tokens: float
    """Read for a sample, on average: text and question, less what was left out."""
    left_out_tokens: float
    """Of prompts that plain transformers could not take, on average."""
    new_tokens: float
    """Written for a sample, on average."""
    seconds: float
    """For a sample, on average."""
    tokens_per_s: float | None
    """Read, over all time that the samples took."""
    peak_rss_bytes: int | None
    """The most memory of the process during one sample."""
    held_bytes: dict[str, int]
    """The most that the cache held, by tier."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Cost | None:
        """The cost of these records; None where nothing was run."""
        samples = list(grouped([r for r in records if r["report"] is not None], _sample).values())
        if not samples:
            return None
        n = len(samples)
        left = sum(r["truncated_tokens"] for sample in samples for r in sample)
        read = sum(max(r["prompt_tokens"] - r["truncated_tokens"] for r in sample) for sample in samples)
        seconds = sum(r["seconds"] for sample in samples for r in sample)
        peaks = [r["peak_rss_bytes"] for sample in samples for r in sample if r["peak_rss_bytes"] is not None]
        held = [r["report"].get("bytes") or {} for sample in samples for r in sample]
        return cls(
            samples=n,
            read_tokens=read / n,
            left_out_tokens=left / n,
            new_tokens=sum(r["new_tokens"] for sample in samples for r in sample) / n,
            seconds=seconds / n,
            tokens_per_s=read / seconds if seconds > 0 else None,
            peak_rss_bytes=max(peaks, default=None),
            held_bytes={tier: max((int(found.get(tier, 0)) for found in held), default=0) for tier in TIERS},
        )


def _sample(record: Record) -> tuple[str, int | None, str, str]:
    """What the records of one sample share."""
    return record["id"], record["length"], str(record["depth"]), str(record["options"])


def cost_table(table: Table) -> tuple[list[str], dict[str, list[list[str]]]]:
    """(headings, rows of text by method): score, speed, memory, tokens for each length; no rows if nothing was run."""
    found = [(row, length, records, Cost.of(records)) for row in table.rows for length, records in _lengths(row)]
    told = [cost for *_, cost in found if cost is not None]
    tiers = [tier for tier in TIERS if any(cost.held_bytes[tier] for cost in told)]
    columns: dict[str, Callable[[Cost], str]] = {
        "tokens/s": lambda cost: figures.count(cost.tokens_per_s),
        "s a sample": lambda cost: figures.count(cost.seconds),
        "tokens read": lambda cost: figures.count(cost.read_tokens),
        "left out": lambda cost: figures.count(cost.left_out_tokens),
        "written": lambda cost: figures.count(cost.new_tokens),
        "peak memory": lambda cost: figures.bytes_text(cost.peak_rss_bytes),
        **{f"held, {tier}": lambda cost, tier=tier: figures.bytes_text(cost.held_bytes[tier]) for tier in tiers},
    }
    if not any(cost.left_out_tokens for cost in told):
        del columns["left out"]
    lengths = len({length for _, length, _, _ in found}) > 1
    rows: dict[str, list[list[str]]] = {}
    for row, length, records, cost in found if told else ():
        score = figures.value(table.cell(records), table.perplexity)
        cells = [NOTHING if cost is None else say(cost) for say in columns.values()]
        samples = NOTHING if cost is None else str(cost.samples)
        rows.setdefault(row.label, []).append([*([figures.tokens(length)] if lengths else []), samples, score, *cells])
    first = [*(["length"] if lengths else []), "samples", "perplexity" if table.perplexity else "score, %"]
    return [*first, *columns], rows


def costs(table: Table) -> Html | None:
    """The table as a part of a page; None where nothing was run."""
    names, rows = cost_table(table)
    if not rows:
        return None
    head = element("tr", element("th", "method", class_="head"), *(element("th", name, scope="col") for name in names))
    body = []
    for label, lines in rows.items():
        spans = str(len(lines)) if len(lines) > 1 else None
        named = element("th", label, scope="rowgroup" if spans else "row", rowspan=spans)
        for n, line in enumerate(lines):
            last = "last" if spans and n == len(lines) - 1 else None
            cells = (element("td", text) for text in line)
            body.append(element("tr", None if n else named, *cells, class_=last))
    return joined([element("h3", "Cost"), scrolled(element("thead", head), element("tbody", *body))])


def _lengths(row: TableRow) -> list[tuple[int | None, list[Record]]]:
    return sorted(grouped(row.records, lambda r: r["length"]).items(), key=lambda item: item[0] or 0)
