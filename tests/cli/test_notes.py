"""read --notes: places of files of every kind, notes on them, what they take, and that they are written once."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest

from everlong.cli.console import Console
from everlong.cli.documents import document

SMALL = ["sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8"]
FIELDS = [part for field in SMALL for part in ("-o", field)]
TEXT = "# Rise\n\nThe tide rose, and rose.\n\n# Fall\n\nThen the tide fell again.\n"


@pytest.fixture
def read(everlong, tiny, tmp_path):
    def call(*arguments):
        return everlong("read", *arguments, "--store", tmp_path / "store", "--model", tiny, *FIELDS)

    return call


@pytest.fixture
def tide(tmp_path):
    path = tmp_path / "tide.md"
    path.write_text(TEXT)
    return path


def places(path):
    """The text of a file, and what places it has, as (kind, title, level, text there)."""
    found = document(path, Console(quiet=True))
    text = "".join(found.texts)
    return text, [(p.kind, p.title, p.level, text[p.start : p.start + len(p.title)]) for p in found.places]


def test_notes_are_written_once_and_shown(everlong, read, tide, tmp_path):
    first = read(tide, "--notes", "--json")
    assert first.code == 0, first.err
    took = first.json["notes"]
    assert took["notes"] >= 3
    assert took["read_tokens"] > took["written_tokens"] > 0
    assert took["kept_tokens"] > 0
    shown = everlong("sessions", "show", "default", "--store", tmp_path / "store", "--json").json
    sources = {s["name"]: s["places"] for s in shown["sources"]}
    assert sources == {str(tide): 2, f"notes: {tide}": took["notes"]}
    again = read(tide, "--notes")
    assert "notes are there already" in again.err
    assert "0 notes: 0 tokens read for them" in again.err


def test_notes_may_be_asked_for_later_and_a_changed_file_gets_new_ones(everlong, read, tide, tmp_path):
    before = read(tide, "--json").json
    assert "notes" not in before
    later = read(tide, "--notes", "--json").json
    assert later["read_tokens"] == 0
    assert later["notes"]["notes"] >= 3
    tide.write_text("The tide rose.")
    assert read(tide, "--notes", "--json").json["notes"]["notes"] == 1


def test_the_dry_run_says_what_notes_take(read, tide):
    plan = read(tide, "--notes", "--dry-run", "--json").json
    assert plan["notes"]["notes"] >= 3
    assert plan["notes"]["seconds"] > 0
    assert plan["bytes"]["disk"] >= read(tide, "--dry-run", "--json").json["bytes"]["disk"]
    assert "notes: at most" in read(tide, "--notes", "--dry-run").out
    assert "notes" not in read(tide, "--dry-run").out.replace(str(tide), "")


def test_places_of_plain_text_and_of_code(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.py").write_text(TEXT)
    text, found = places(tmp_path / "a.txt")
    assert text == TEXT
    assert [row[:3] for row in found] == [("heading", "Rise", 1), ("heading", "Fall", 1)]
    assert places(tmp_path / "a.py")[1] == []


def test_places_of_html(tmp_path):
    pytest.importorskip("trafilatura", reason="needs the extra everlong[documents]")
    html = (
        "<!doctype html><title>Tides</title><!-- a comment --><h1>The <em>tide</em></h1><p>rose <b>and</b> rose</p>"
        "<h2>Chapter 2: Ebb</h2><p>It fell.</p><h3> </h3><script>no()</script><h2>Chapter 2: Ebb</h2><p>Low.</p>"
    )
    (tmp_path / "a.html").write_text(html)
    text, found = places(tmp_path / "a.html")
    assert text == "The tide\n\nrose and rose\n\nChapter 2: Ebb\n\nIt fell.\n\nChapter 2: Ebb\n\nLow.\n\n"
    assert [row[:3] for row in found] == [("heading", "The tide", 1)] + [("chapter", "Chapter 2: Ebb", 2)] * 2
    assert [row[3] for row in found] == [row[1] for row in found]


def test_pages_of_a_pdf(tmp_path):
    pypdf = pytest.importorskip("pypdf", reason="needs the extra everlong[documents]")
    writer = pypdf.PdfWriter()
    for _ in range(3):
        writer.add_blank_page(72, 72)
    writer.write(tmp_path / "a.pdf")
    text, found = places(tmp_path / "a.pdf")
    assert text == "\n\n\n"
    assert [row[:2] for row in found] == [("page", f"page {n}") for n in (1, 2, 3)]


def test_looking_at_the_beginning_only_leaves_the_places_of_the_reading_alone(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 5000)
    found = document(tmp_path / "a.txt", Console(quiet=True))
    begun = iter(found.texts)
    assert isinstance(begun, Generator)
    with closing(begun) as texts:
        next(texts)
    assert 0 < len(found.places) < 10000
