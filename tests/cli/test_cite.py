"""Citations as people cite: page, chapter, heading and line of the file that was read, and quotations checked."""

from __future__ import annotations

import re

import pytest

from everlong.cli.cite import citation_lines, quotation_lines, where
from everlong.library.kept_text import kept_transcript
from everlong.library.library import Library
from everlong.models.load import load_tokenizer
from everlong.session import ingest as reading
from everlong.session.citations import spot
from everlong.session.quotations import Quotation
from everlong.session.session import Session
from everlong.text.transcript import Citation

SMALL = ("sinks=2", "window=24", "block=8", "top_k=2", "exec_chunk=32", "pool=8")
FIELDS = [part for f in SMALL for part in ("-o", f)]
TEXT = "# The Tides\n\nAt noon the tide rose.\n\n## Ebb\n\n" + "".join(
    f"It fell {n} feet;\nall saw it.\n" for n in range(9)
)


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def read(everlong, tiny, store):
    def call(*arguments):
        done = everlong("read", *arguments, "--store", store, "--model", tiny, *FIELDS)
        assert done.code == 0, done.err

    return call


@pytest.fixture
def line_of(tiny, store):
    """The line that is cited for the first place where some words stand in a source."""

    def call(words, content, name=None, session="default"):
        library = Library(store)
        transcript = kept_transcript(library, library.entry(session), load_tokenizer(tiny))
        at = content.index(words)
        parts = [s for s in transcript.sources if (name is None or s.name == name) and s.digest != "gone"]
        part = max((s for s in parts if s.marks[0][1] <= at), key=lambda s: s.marks[0][1])
        return spot(transcript, part, at).line

    return call


def lines(content):
    return re.split(r"\r\n|\n|\r", content)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_are_those_of_the_file(read, line_of, tmp_path, end, encoding):
    text = ("Größe 日本 🙂\n" + TEXT).replace("\n", end)
    (tmp_path / "a.md").write_bytes(text.encode(encoding))
    read(tmp_path / "a.md")
    for words in ("Größe", "At noon", "fell 0", "fell 8"):
        line = line_of(words, text)
        assert words in lines(text)[line - 1]


def test_a_carriage_return_within_lines_ends_none(read, line_of, tmp_path):
    text = "10 %\r50 %\r100 %\ndone at noon\nand closed\n" * 3
    (tmp_path / "a.log").write_bytes(text.encode())
    read(tmp_path / "a.log")
    assert [line_of(words, text) for words in ("50", "done", "closed")] == [1, 2, 3]


def test_of_a_log_that_grew_lines_go_on(read, line_of, tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"It rose.\r\nIt fell.\r\nIt ro")
    read(log)
    with log.open("ab") as file:
        file.write(b"se again.\r\nAt night it fell.\r\n")
    read(log)
    text = log.read_bytes().decode()
    assert [line_of(words, text) for words in ("It fell", "It ro", "se again", "At night")] == [2, 1, 3, 4]


def test_a_part_that_was_cut_off_and_read_on(everlong, read, line_of, tmp_path, tiny, store, monkeypatch):
    feed, fed = Session.feed, []

    def cut_off(self, x, **more):
        fed.append(1)
        if len(fed) == 4:
            raise reading.InputError("text: ends here")
        return feed(self, x, **more)

    (tmp_path / "a.md").write_text(TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "feed", cut_off)
        where = ["--store", store, "--model", tiny, *FIELDS, "--chunk", 32]
        assert everlong("read", tmp_path / "a.md", *where).code == 2
    assert line_of("fell 0", TEXT) == 7
    read(tmp_path / "a.md")
    for words in ("At noon", "fell 0", "fell 8"):
        assert words in lines(TEXT)[line_of(words, TEXT) - 1]


def test_lines_stay_after_forgetting_and_in_forks_and_archives(everlong, read, line_of, tmp_path, store):
    (tmp_path / "a.md").write_text(TEXT)
    (tmp_path / "b.md").write_text("Another text.\n" * 9)
    read(tmp_path / "a.md", tmp_path / "b.md")
    line = line_of("fell 8", TEXT)
    assert "fell 8" in lines(TEXT)[line - 1]
    library = Library(store)
    library.fork("default", "twin")
    library.export("twin", tmp_path / "twin.tar")
    library.take(tmp_path / "twin.tar", "third")
    assert everlong("forget", "--tokens", "40:90", "--store", store).code == 0
    assert everlong("forget", "--tokens", "40:90", "--store", store, "--session", "third", "--reread").code == 0
    for session in ("default", "twin", "third"):
        assert line_of("fell 8", TEXT, str(tmp_path / "a.md"), session) == line
    assert "lines" not in everlong("sessions", "show", "default", "--store", store, "--json").json["sources"][0]


def test_the_answer_cites_sentence_heading_and_line(everlong, read, tmp_path, tiny, store):
    (tmp_path / "a.md").write_text(TEXT + "\n## Gulls\n\nThe gulls of Lima\nsleep in crate 7342. They wake at noon.\n")
    read(tmp_path / "a.md")
    ask = ["ask", "The gulls of Lima sleep in which crate?", "--store", store, "--max-new-tokens", 4, "--cite"]
    (best, *_) = everlong(*ask, "--json", "--top", 1).json["citations"]
    assert best["sentence"] == "The gulls of Lima\nsleep in crate 7342."
    assert (best["name"], best["page"], best["heading"]) == ("a.md", None, "Gulls")
    assert best["line"] == 1 + (tmp_path / "a.md").read_text().split("The gulls")[0].count("\n")
    out = everlong(*ask).out
    assert f"] a.md, “Gulls”, line {best['line']}\n        The gulls of Lima sleep in crate 7342." in out


def test_of_a_pdf_pages_are_cited_and_no_lines(read, tmp_path, tiny, store, monkeypatch):
    pypdf = pytest.importorskip("pypdf", reason="needs the extra everlong[documents]")
    writer = pypdf.PdfWriter()
    for _ in range(3):
        writer.add_blank_page(72, 72)
    writer.write(tmp_path / "a.pdf")
    texts = [f"Page of {what}.\nThe tide rose at noon." for what in ("gulls", "crates", "piers")]
    monkeypatch.setattr(pypdf.PageObject, "extract_text", lambda page: texts[page.page_number])
    read(tmp_path / "a.pdf")
    library = Library(store)
    transcript = kept_transcript(library, library.entry("default"), load_tokenizer(tiny))
    (source,) = transcript.sources
    text = transcript.text(*transcript.bounds(source))
    found = spot(transcript, source, text.index("crates"))
    assert (found.page, found.line) == (2, None)


def test_places_in_words():
    cited = Citation("/a/b.md", 10, 20, "It rose.", 0.5, name="b.md")
    assert where(cited) == "b.md, characters 10 to 20"
    full = Quotation("x", True, "/a/b.pdf", "b.pdf", 10, 20, 12, "Chapter 1", "Ebb", 1234)
    assert where(full) == "b.pdf, page 12, “Chapter 1”, “Ebb”, line 1,234"
    assert quotation_lines([full, Quotation("it\nfell", False)]) == [
        'the quotation "x" is in b.pdf, page 12, “Chapter 1”, “Ebb”, line 1,234',
        'the quotation "it fell" is not in what was read',
    ]
    assert citation_lines([]) == "  No passage stands out."
    assert citation_lines([cited]) == "  [50%] b.md, characters 10 to 20\n        It rose."
