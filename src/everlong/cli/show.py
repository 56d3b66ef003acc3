"""Kept sessions as a person reads them: all of them as a table, one with its sources and files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap
from typing import Any

from everlong.cli.amounts import several, size
from everlong.cli.table import aligned, when

_INDENT = "  "
_WIDTH = 100


def sessions_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each session below a header."""
    header = ("NAME", "TOKENS", "SIZE", "LAST WRITTEN", "METHOD", "MODEL")
    cells = [
        (r["name"], f"{r['tokens']:,}", size(r["bytes"]), when(r["updated"]), r["method"]["name"], r["model"])
        for r in rows
    ]
    return aligned(header, cells, right=("TOKENS", "SIZE"))


def session_lines(found: dict[str, Any]) -> list[str]:
    """One session: `found` is what `everlong sessions show --json` prints."""
    fields = ", ".join(f"{name}={_plain(value)}" for name, value in found["method"]["fields"].items())
    facts = {
        "name": found["name"],
        "model": found["model"],
        "method": f"{found['method']['name']}({fields})",
        "tokens": f"{found['tokens']:,}{_journal(found['journal_tokens'])}",
        "blocks": f"{found['blocks']:,}",
        "size": size(found["bytes"]),
        "created": when(found["created"]),
        "last written": when(found["updated"]),
        "id": found["id"],
    }
    width = 1 + max(map(len, facts))
    lines = [line for name, value in facts.items() for line in _fact(f"{name + ':':<{width}} ", value)]
    parts = {
        "sources": _sources(found),
        "pins": [_pin(pin) for pin in found["pins"]],
        "forgotten": [_tokens(first, end) for first, end in found["forgotten"]],
        "dropped blocks": _dropped(found["dropped_blocks"]),
        "files": [_file(v) for v in found["volumes"]],
    }
    for name, told in parts.items():
        lines += [f"{name}:", *(_INDENT + line for line in told)] if told else []
    return lines


def _journal(tokens: int) -> str:
    """What is said of tokens that are in no checkpoint yet."""
    return f" ({tokens:,} of them in the journal: read again when the session is next opened)" if tokens else ""


def _plain(value: Any) -> str:
    """A setting as it is said: yes and no, none, or as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _fact(name: str, value: str) -> list[str]:
    """A name and what it stands for, in lines of a readable length."""
    return wrap(value, _WIDTH, initial_indent=name, subsequent_indent=" " * len(name), break_long_words=False)


def _sources(found: dict[str, Any]) -> list[str]:
    """Each source with how much was read of it, and what became of it."""
    sources = found["sources"]
    ends = [*(s["first"] for s in sources), found["tokens"]]
    cells = [
        (s["name"], f"{s['first']:,}", f"{b - a:,}", _state(s), f"{s['places']:,}")
        for s, (a, b) in zip(sources, pairwise(ends), strict=True)
    ]
    header = ("SOURCE", "FIRST TOKEN", "TOKENS", "READ", "HEADINGS AND PAGES")
    return aligned(header, cells, right=("FIRST TOKEN", "TOKENS", "HEADINGS AND PAGES")) if cells else []


def _state(source: dict[str, Any]) -> str:
    if source["digest"] == "gone":
        return "forgotten or changed"
    if source["done"]:
        return "to its end"
    return "in part" if source["digest"] else "-"


def _pin(pin: dict[str, Any]) -> str:
    ways = {"always": "always attended to", "keep": "never given up"}
    return f"{_tokens(pin['first'], pin['end'])}: {', '.join(words for way, words in ways.items() if pin[way])}"


def _tokens(first: int, end: int) -> str:
    return f"tokens {first:,} to {end - 1:,}"


def _dropped(blocks: Sequence[int]) -> list[str]:
    """Blocks that were dropped, as runs."""
    gone = set(blocks)
    starts = [n for n in blocks if n - 1 not in gone]
    ends = [n for n in blocks if n + 1 not in gone]
    return [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(starts, ends, strict=True)]


def _file(volume: dict[str, Any]) -> str:
    return f"{volume['path']}  {several(volume['end'] - volume['first'], 'block')} from number {volume['first']:,} on"
