"""Documents as text: the words in their order, a paragraph a line, headings as places, and what is lost said."""

from __future__ import annotations

import builtins
import json
import logging
import mailbox
import zipfile
from email.message import EmailMessage

import pytest

from everlong.cli.console import Console
from everlong.cli.documents import document
from everlong.errors import CapabilityError, EverlongError

pytest.importorskip("trafilatura", reason="needs the extra everlong[documents]")
pytest.importorskip("mammoth", reason="needs the extra everlong[documents]")
PAGE = """<html><head><title>Tides</title><style>b {{}}</style></head><body>
<nav><ul><li><a href=/>Home</a><li><a href=/about>About us</a></ul></nav>
<div class="sidebar"><h3>More</h3><a href=x>Popular posts</a></div>
{body}
<footer>Imprint and cookies</footer></body></html>"""
BODY = """<h1>The <em>Tides</em> of Kiel</h1>
<p>The <b>quick</b> brown <a href=x>fox</a>
jumps over the <i>lazy</i> dog.<br>It was a good<!-- no --> day.</p>
<h2>Chapter 1. Ebb</h2><p>Water went&nbsp;out.</p>
<ul><li>one <b>thing</b></li><li>another</li></ul>
<table><tr><th>Port</th><th>Depth</th></tr><tr><td>Kiel</td><td>12 m</td></tr></table>
<h2>Chapter 2. Flood</h2><p>It came back.</p>"""
LINES = """The Tides of Kiel

The quick brown fox jumps over the lazy dog.
It was a good day.

Chapter 1. Ebb

Water went out.

- one thing
- another
Port | Depth
Kiel | 12 m

Chapter 2. Flood

It came back.

"""


@pytest.fixture
def text_of(tmp_path, capsys):
    """The text of a file of this name and content, its places and what was said."""

    def read(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        found = document(tmp_path / name, Console(quiet=True))
        text = "".join(found.texts)
        for place in found.places:
            assert text[place.start :].lstrip("# ").startswith(place.title) or place.kind == "page"
        return text, [(p.kind, p.title, p.level) for p in found.places], capsys.readouterr().err

    return read


TITLES = [("heading", "The Tides of Kiel", 1), ("chapter", "Chapter 1. Ebb", 2), ("chapter", "Chapter 2. Flood", 2)]


@pytest.mark.parametrize("body", [BODY, f"<article>{BODY}</article>", f"<div><div>{BODY}</div></div>", f"<main>{BODY}"])
@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.XHTML"])
def test_the_main_text_of_a_page_without_its_menus(text_of, name, body):
    text, places, _ = text_of(name, PAGE.format(body=body))
    assert text == LINES
    assert places == TITLES


def test_a_short_page_and_a_long_one(text_of):
    assert text_of("a.html", "<h1>T</h1><p>Hi <b>there</b>.</p>")[0] == "T\n\nHi there.\n\n"
    body = "".join(
        f"<h2><a name={n}></a>CHAPTER {n}</h2>" + f"<p>The tide <i>rose</i> {n} times.</p>" * 40 for n in range(1, 30)
    )
    text, places, _ = text_of("a.html", PAGE.format(body=body))
    assert text.count("The tide rose") == 29 * 40
    assert [p[1] for p in places] == [f"CHAPTER {n}" for n in range(1, 30)]
    assert "Home" not in text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<header><h1>Tide</h1></header><main><p>It rose.</p></main>", "Tide\n\nIt rose.\n\n"),
        ("<main><ul><li>one</li><li><a href=x>a link in a list</a></li></ul></main>", "- one\n- a link in a list\n"),
        ("<p>It rose.</p><ul><li>one</li><li>two <a href=x>links</a></li></ul>", "It rose.\n\n- one\n- two links\n"),
        ("bare words with <b>bold</b> ones<br>and a break", "bare words with bold ones\nand a break\n\n"),
        ("<details><summary>Why?</summary><p>Because it fell.</p></details>", "Why?\n\nBecause it fell.\n\n"),
        ("<dl><dt>ebb</dt><dd>when it falls</dd></dl>", "ebb\nwhen it falls\n"),
        ("<p>One<p>Two <span>three</span><div>four</div>", "One\n\nTwo three\n\nfour\n\n"),
        ("<h1>Tide<a class=x href=#t>¶</a></h1><p hidden>unseen</p><p>It rose.</p>", "Tide\n\nIt rose.\n\n"),
        ("<div><a href=a>Home</a> | <a href=b>About</a></div><p>It rose.</p>", "It rose.\n\n"),
        ("<ul class='main-menu'><li>Home</li></ul><p>It rose.</p><div id=footer>© 2026</div>", "It rose.\n\n"),
        ("<pre><code>if x:\n    y</code></pre><p>It rose.</p>", "if x:\n    y\n\nIt rose.\n\n"),
        ("<p>It ended low.</p><h2>Notes</h2>", "It ended low.\n\nNotes\n\n"),
    ],
)
def test_nothing_but_menus_is_left_out(text_of, body, text):
    assert text_of("a.html", f"<html><body>{body}</body></html>")[0] == text


def test_a_page_of_links_only_is_read_whole(text_of):
    assert "Home" in text_of("a.html", "<nav><a href=a>Home</a> <a href=b>About</a></nav>")[0]


def test_what_a_page_leaves_out_is_said_where_it_is_much(text_of):
    menu = "<nav>" + "<a href=x>An entry of the menu</a> " * 50 + "</nav>"
    said = text_of("a.html", f"<body>{menu}<p>The tide rose.</p></body>")[2]
    assert "a.html: its main text has 16 of" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("iso-8859-1", "cp1252"), ("gb2312", "gb18030"), ("shift_jis", "cp932"), ("utf-8", "utf-8"), ("", "utf-16")],
)
def test_pages_say_their_encoding(text_of, declared, encoding):
    words = {"cp1252": "Größe “5 €”", "gb18030": "今天天气", "cp932": "今日は"}.get(encoding, "é 日本")
    html = f'<html><head><meta charset="{declared}"></head><body><p>{words}</p></body></html>'
    assert text_of("a.html", html.encode(encoding))[0] == f"{words}\n\n"


def epub(path, chapters, nav="", locked=""):
    items = "".join(f'<item id="c{n}" href="text/c%20{n}.xhtml" media-type="x"/>' for n in range(len(chapters)))
    refs = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        container = '<container xmlns="urn:x"><rootfiles><rootfile full-path="OEBPS/a.opf"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", container)
        archive.writestr(
            "OEBPS/a.opf",
            '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="nav" href="nav.xhtml" '
            f'properties="nav"/>{items}</manifest><spine><itemref idref="nav"/>{refs}</spine></package>',
        )
        archive.writestr("OEBPS/nav.xhtml", f"<html><body><nav>{nav}</nav></body></html>")
        if locked:
            archive.writestr("META-INF/encryption.xml", f'<x><CipherReference URI="{locked}"/></x>')
        for n, chapter in enumerate(chapters):
            head = '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body>'
            archive.writestr(f"OEBPS/text/c {n}.xhtml", f"{head}{chapter}</body></html>")


def test_the_chapters_of_an_epub(text_of, tmp_path):
    epub(tmp_path / "a.epub", [BODY, "<p>CHAPTER III</p><p>The t<i>i</i>de turned at Größe.</p>"], nav="Contents")
    text, places, _ = text_of("a.epub")
    assert text == LINES + "CHAPTER III\n\nThe tide turned at Größe.\n\n"
    assert places[:3] == TITLES
    assert [p[0] for p in places[3:]] == ["chapter"]
    assert places[3][1].startswith("CHAPTER III")


def test_a_protected_epub_is_refused(text_of, tmp_path):
    epub(tmp_path / "a.epub", [BODY], locked="OEBPS/text/c 0.xhtml")
    with pytest.raises(EverlongError, match=r"a\.epub: protected \(DRM\); give an edition"):
        text_of("a.epub")


def word(path, paragraphs):
    """A DOCX of (style, text)."""
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    types = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text[:3]}</w:t></w:r>'
        f"<w:r><w:t>{text[3:]}</w:t></w:r></w:p>"
        for style, text in paragraphs
    )
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in (1, 2)
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{types}/content-types"><Default Extension="rels" ContentType="application/'
            'vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        rel = f'<Relationship Id="r1" Type="{office}/officeDocument" Target="word/document.xml"/>'
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{types}/relationships">{rel}</Relationships>')
        rel = f'<Relationship Id="r1" Type="{office}/styles" Target="styles.xml"/>'
        archive.writestr(
            "word/_rels/document.xml.rels", f'<Relationships xmlns="{types}/relationships">{rel}</Relationships>'
        )
        archive.writestr("word/styles.xml", f"<w:styles {w}>{styles}</w:styles>")
        archive.writestr("word/document.xml", f"<w:document {w}><w:body>{body}</w:body></w:document>")


def test_the_paragraphs_and_headings_of_a_docx(text_of, tmp_path):
    paragraphs = [("Heading1", "The Tide"), ("", "It rose."), ("Heading2", "Chapter 2"), ("", "It fell.")]
    word(tmp_path / "a.docx", paragraphs)
    text, places, _ = text_of("a.docx")
    assert text == "The Tide\n\nIt rose.\n\nChapter 2\n\nIt fell.\n\n"
    assert places == [("heading", "The Tide", 1), ("chapter", "Chapter 2", 2)]


def test_the_paragraphs_and_headings_of_an_odt(text_of, tmp_path):
    names = 'xmlns:office="urn:office" xmlns:text="urn:text" xmlns:table="urn:table"'
    body = (
        '<text:h text:outline-level="1">The <text:span>Tide</text:span></text:h><text:p>It<text:s/>rose.</text:p>'
        "<text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>"
        '<text:h text:outline-level="2">Chapter 2</text:h>'
        "<text:p>It<office:annotation>why?</office:annotation> fell.</text:p>"
    )
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as archive:
        archive.writestr(
            "content.xml",
            f"<office:document-content {names}><office:automatic-styles>x</office:automatic-styles>"
            f"<office:body><office:text>{body}</office:text></office:body></office:document-content>",
        )
    text, places, _ = text_of("a.odt")
    assert text == "The Tide\n\nIt rose.\n\n- one\n\nChapter 2\n\nIt fell.\n\n"
    assert places == [("heading", "The Tide", 1), ("chapter", "Chapter 2", 2)]


def test_the_cells_of_a_notebook(text_of):
    cells = [
        {"cell_type": "markdown", "source": ["# Tides\n", "\n", "Words."]},
        {
            "cell_type": "code",
            "source": "# no heading\nprint(12)",
            "outputs": [
                {"output_type": "stream", "text": ["12\n"]},
                {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "<Figure>"}},
                {"output_type": "error", "traceback": ["\x1b[31mValueError\x1b[0m: low"]},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    notebook = {"nbformat": 4, "metadata": {"kernelspec": {"language": "python"}}, "cells": cells}
    text, places, said = text_of("a.ipynb", json.dumps(notebook))
    code = "```python\n# no heading\nprint(12)\n```\n\n```\n12\n\nValueError: low\n```\n\n"
    assert text == f"# Tides\n\nWords.\n\n{code}"
    assert [p[1] for p in places] == ["Tides"]
    assert "1 pictures are left out" in said
    older = {
        "nbformat": 3,
        "worksheets": [
            {"cells": [{"cell_type": "heading", "level": 2, "source": "Old"}, {"cell_type": "code", "input": "x"}]}
        ],
    }
    assert text_of("b.ipynb", json.dumps(older))[0] == "## Old\n\n```\nx\n```\n\n"


def message(subject, body, html=None, attachment=False):
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Ada <a@x.org>", "b@x.org", subject
    made["Date"] = "Mon, 02 Mar 2026 10:00:00 +0100"
    if body is not None:
        made.set_content(body)
    if html is not None:
        (made.add_alternative if body is not None else made.set_content)(html, subtype="html")
    if attachment:
        made.add_attachment(b"\0\1", maintype="image", subtype="png", filename="x.png")
    return made


def test_the_messages_of_an_mbox(text_of, tmp_path):
    box = mailbox.mbox(tmp_path / "a.mbox")
    box.add(message("Tide übermorgen", "It röse.\nFrom here on.", "<p>no</p>"))
    box.add(message("Re: Tide", None, "<p>It <b>fell</b>.</p>", attachment=True))
    box.close()
    text, places, said = text_of("a.mbox")
    head = "From: Ada <a@x.org>\nTo: b@x.org\nDate: Mon, 02 Mar 2026 10:00:00 +0100\nSubject: "
    assert (
        text.replace(">From", "From")
        == f"{head}Tide übermorgen\n\nIt röse.\nFrom here on.\n\n{head}Re: Tide\n\nIt fell.\n\n"
    )
    assert [p[1] for p in places] == ["Tide übermorgen", "Re: Tide"]
    assert "1 attachments are left out" in said
    assert text_of("b.eml", message("One", "Words.").as_bytes())[0] == f"{head}One\n\nWords.\n\n"


def test_a_locked_pdf_and_one_without_text(text_of, tmp_path):
    pypdf = pytest.importorskip("pypdf", reason="needs the extra everlong[documents]")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    writer.write(tmp_path / "blank.pdf")
    said = text_of("blank.pdf")[2]
    assert "blank.pdf: no text found in it (pictures of pages need OCR first)" in said
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    with pytest.raises(EverlongError, match=r"locked\.pdf: locked .*unlock it first"):
        text_of("locked.pdf")


def test_what_pypdf_says_of_a_crooked_file_stays_with_it(text_of, tmp_path, caplog):
    pypdf = pytest.importorskip("pypdf", reason="needs the extra everlong[documents]")
    writer = pypdf.PdfWriter()
    writer.add_blank_page(72, 72)
    writer.write(tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    (tmp_path / "b.pdf").write_bytes(b"junk\n" + content.replace(b"startxref\n", b"startxref\n1"))
    with caplog.at_level(logging.WARNING):
        said = text_of("b.pdf")[2]
    assert caplog.records == []
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["a.epub", "a.docx", "a.odt", "a.ipynb", "a.pdf", "a.mbox"])
@pytest.mark.parametrize("content", [b"no such thing", b"PK\x03\x04 broken", b"{}", b""])
def test_a_damaged_document_is_one_line(text_of, name, content):
    with pytest.raises(EverlongError, match=r"a\.\w+: (not an? |holds no message|not a PDF)") as raised:
        text_of(name, content)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "package"),
    [("a.html", "trafilatura"), ("a.pdf", "pypdf"), ("a.epub", "lxml"), ("a.docx", "mammoth"), ("a.odt", "lxml")],
)
def test_a_missing_package_is_named_with_the_command(text_of, monkeypatch, name, package):
    importing = builtins.__import__

    def refusing(wanted, *rest, **more):
        if wanted.partition(".")[0] == package:
            raise ImportError(wanted)
        return importing(wanted, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refusing)
    monkeypatch.setattr(
        "importlib.import_module",
        lambda wanted: importing(wanted, fromlist=["x"]) if wanted != package else refusing(wanted),
    )
    with pytest.raises(CapabilityError, match=rf"needs {package}; pip install 'everlong\[documents\]'"):
        text_of(name, b"x")
