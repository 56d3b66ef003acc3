"""What is kept, as a person reads it: tables with a header, sizes and dates; no raw floats, no Python values."""

from __future__ import annotations

import re

import pytest

from everlong.cli.show import session_lines
from everlong.cli.table import aligned
from everlong.library.library import Library

SMALL = ("sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8")
FIELDS = [part for f in SMALL for part in ("-o", f)]
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d"


@pytest.fixture
def store(everlong, tiny, text_file, tmp_path):
    """A store with a session that was read, pinned and forgotten from in part, and one with a long name."""
    store = tmp_path / "store"
    text_file.write_text("# One\n\n" + text_file.read_text()[:600])
    assert everlong("read", text_file, "--store", store, "--model", tiny, *FIELDS).code == 0
    where = ["--store", store, "--session", "default"]
    assert everlong("pin", *where, "--tokens", "100:104").code == 0
    assert everlong("forget", *where, "--tokens", "40:60").code == 0
    library = Library(store)
    library.fork("default", "a session with quite a long name")
    return store


def test_the_list_has_a_header_and_aligned_columns(everlong, store):
    header, *rows = everlong("sessions", "list", "--store", store).out.splitlines()
    assert header.split("  ")[0].strip() == "NAME"
    assert len(rows) == 2
    for name, pattern in (("LAST WRITTEN", DATE), ("METHOD", "blocks"), ("MODEL", r"\S")):
        assert all(re.match(pattern, row[header.index(name) :]) for row in rows)
    for name, pattern in (("TOKENS", r"[\d,]+"), ("SIZE", r"[\d.,]+ (?:bytes|KiB|MiB)")):
        end = header.index(name) + len(name)
        assert all(re.search(rf"  {pattern}$", row[:end]) for row in rows)


def test_an_empty_store_says_what_fills_it(everlong, tmp_path):
    Library(tmp_path / "store")
    assert "everlong read FILE" in everlong("sessions", "list", "--store", tmp_path / "store").out
    assert everlong("sessions", "list", "--store", tmp_path / "store", "--json").json == []


def test_show_is_for_people_and_json_as_it_was(everlong, store, text_file):
    shown = everlong("sessions", "show", "default", "--store", store).out
    without_names = re.sub(r"\b[0-9a-f]{16}\b|_", "", shown.replace(str(store.parent), ""))
    assert not re.search(r"\d{9,}|[{}]|None|True|False", without_names), shown
    assert re.search(rf"^created: +{DATE}$", shown, re.MULTILINE)
    assert re.search(r"^size: +[\d.]+ (KiB|MiB)$", shown, re.MULTILINE)
    assert re.search(rf"^  {re.escape(str(text_file))} +0 +[\d,]+  to its end +1$", shown, re.MULTILINE)
    assert "\npins:\n  tokens 100 to 103: always attended to, never given up\n" in shown
    assert "\nforgotten:\n  tokens 40 to 59\n" in shown
    assert re.search(r"^dropped blocks:\n  \d+ to \d+$", shown, re.MULTILINE)
    assert max(map(len, shown.partition("sources:")[0].splitlines())) <= 100
    as_json = everlong("sessions", "show", "default", "--store", store, "--json").json
    assert {"id", "name", "created", "updated", "model", "method", "tokens", "blocks", "bytes"} <= as_json.keys()
    assert {"sources", "volumes", "dropped_blocks", "pins", "forgotten"} <= as_json.keys()
    assert isinstance(as_json["created"], float)
    assert as_json["sources"][0].keys() == {"name", "first", "digest", "done", "marks", "places"}


def test_a_session_that_has_read_nothing_is_shown():
    facts = {"name": "a", "model": "m", "method": {"name": "blocks", "fields": {}}, "tokens": 0, "blocks": 0, "id": "x"}
    lists = {name: [] for name in ("sources", "volumes", "dropped_blocks", "pins", "forgotten")}
    lines = session_lines(facts | lists | {"bytes": 0, "created": 0.0, "updated": 0.0, "journal_tokens": 0})
    assert [line.partition(":")[0] for line in lines][-1] == "id"


def test_tokens_that_a_killed_server_left_in_the_journal_are_told_apart():
    facts = {
        "name": "a",
        "model": "m",
        "method": {"name": "blocks", "fields": {}},
        "tokens": 1200,
        "blocks": 0,
        "id": "x",
    }
    lists = {name: [] for name in ("sources", "volumes", "dropped_blocks", "pins", "forgotten")}
    lines = session_lines(facts | lists | {"bytes": 0, "created": 0.0, "updated": 0.0, "journal_tokens": 200})
    told = "1,200 (200 of them in the journal: read again when the session is next opened)"
    assert any(line.startswith("tokens:") and line.endswith(told) for line in lines)


def test_columns_of_nothing():
    assert aligned(("A", "B"), []) == ["A  B"]
