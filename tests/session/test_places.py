"""Chapters, headings and pages: found in text as it streams, named by questions, kept, forked and forgotten."""

from __future__ import annotations

import sqlite3

import pytest

from everlong import Blocks, Session
from everlong.library.library import Library
from everlong.session.ingest import Document, read_document
from everlong.session.named_places import WHOLE, asks_whole, named_spans, places_named
from everlong.text.places import Place, end_of, found_in, heading, number_of

SMALL = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "exec_chunk": 16, "pool": 8}
BOOK = (
    "THE TIDE\n\nCHAPTER I. The Gulls\n\nCHAPTER II. The Harbour\n\nCHAPTER III\n\n\n"
    + "It was the best of times. " * 10
    + "\n\nCHAPTER I. The Gulls\n\n"
    + "The gulls cried over the harbour. " * 12
    + "\n\nCHAPTER II. The Harbour\n\nChapter 3 of the log was lost, nobody knew why;\nnobody cared. "
    + "The tide rose. " * 12
    + "\n\nCHAPTER III\nWhat the Tide Left\n\n"
    + "The tide fell and the worst of times began. " * 8
    + "\n"
)


def found(text: str, size: int = 10**9, markdown: bool = True) -> list[Place]:
    """The places of a text that comes in pieces of `size` characters."""
    places: list[Place] = []
    texts = [text[i : i + size] for i in range(0, len(text), size)]
    assert list(found_in(texts, places, markdown)) == texts
    return places


@pytest.mark.parametrize(
    ("line", "kind", "level"),
    [
        ("CHAPTER III", "chapter", 2),
        ("Chapter 3. The Storm", "chapter", 2),
        ("Chapter Twenty-One: At Sea", "chapter", 2),
        ("BOOK TWO", "chapter", 1),
        ("Part 1 - Before", "chapter", 1),
        ("## Chapter 4", "chapter", 2),
        ("# Tides and Gulls #", "heading", 1),
        ("1. Introduction to tides", "heading", 2),
        ("1.1 Methods", "heading", 3),
        ("I.", "chapter", 2),
        ("   CHAPTER IX   ", "chapter", 2),
    ],
)
def test_a_heading_on_a_line_of_its_own(line, kind, level):
    text = f"Some words before.\n\n{line}\n\nAnd words after.\n"
    (place,) = found(text)
    assert (place.kind, place.level) == (kind, level)
    assert text[place.start :].startswith(place.title if line[0] != "#" else line)


@pytest.mark.parametrize(
    "text",
    [
        "He opened\nChapter 3 of the book and read.\n",
        "\n\nChapter 3 was the one he liked best of all\nand so on.\n",
        "\n\nchapter 3\n\n",
        "\n\n12\n\n",
        "\n\n7. Not the first of its row\n\n",
        "\n\n1. buy milk\n\n",
        "\n\nI was there, and saw it all.\n\n",
        "\n\nChapter Mild\n\n",
        "```\n\n# a comment\n\n```\n",
        "\n\nCHAPTER III " + "x" * 200 + "\n\n",
        "",
    ],
)
def test_what_is_no_heading(text):
    assert found(text) == []


def test_comments_of_code_are_no_headings():
    assert found("\n# a comment\n", markdown=False) == []


@pytest.mark.parametrize("size", [1, 7, 63])
def test_pieces_of_any_length_give_the_same_places(size):
    text = BOOK.replace("\n\n\n", "\r\n\r\n") + "y" * 5000 + "\n\n# Late\n"
    assert found(text, size) == found(text)
    assert found(text)[-1] == Place("heading", "Late", text.index("# Late"), 1)


def test_titles_may_stand_on_the_next_line():
    assert [p.title for p in found(BOOK)][-1] == "CHAPTER III What the Tide Left"


def test_places_end_where_the_next_of_their_level_begins():
    text = "# A\n\nx\n\n## B\n\nx\n\n## C\n\nx\n\n# D\n\nx"
    places = [*found(text), Place("page", "page 1", 0, 9), Place("page", "page 2", 9, 9)]
    ends = {p.title: end_of(places, p) for p in places}
    assert ends == {
        "A": text.index("# D"),
        "B": text.index("## C"),
        "C": text.index("# D"),
        "D": None,
        "page 1": 9,
        "page 2": None,
    }


def test_numbers():
    romans = {"i": 1, "IV": 4, "ix": 9, "XIV": 14, "xl": 40, "XCIX": 99, "CCCXC": 390}
    assert {text: number_of(text) for text in romans} == {text: (n,) for text, n in romans.items()}
    assert [number_of(text) for text in ("12", "2.3.1", "eleven", "Forty-two")] == [(12,), (2, 3, 1), (11,), (42,)]
    assert [number_of(text) for text in ("", "iiii", "vx", "mix", "civil", "Smith")] == [None] * 6


@pytest.mark.parametrize(
    ("question", "titles"),
    [
        ("What happens in chapter 3?", ["CHAPTER III What the Tide Left"]),
        ("summarise Chapter III", ["CHAPTER III What the Tide Left"]),
        ("chapters 1 and 3", ["CHAPTER I. The Gulls", "CHAPTER III What the Tide Left"]),
        (
            "chapters one to three",
            ["CHAPTER I. The Gulls", "CHAPTER II. The Harbour", "CHAPTER III What the Tide Left"],
        ),
        ("Who cries in the second chapter?", ["CHAPTER II. The Harbour"]),
        ("the last chapter", ["CHAPTER III What the Tide Left"]),
        ('In "the harbour", what was lost?', ["CHAPTER II. The Harbour"]),
        ("Tell me about What the Tide Left.", ["CHAPTER III What the Tide Left"]),
        ("What did the tide leave in the harbour?", []),
        ("chapter 9", []),
        ("What is the plot?", []),
        ("Which chapter I should read", []),
    ],
)
def test_places_that_a_question_names(question, titles):
    places = found(BOOK)
    named = places_named(places, question)
    assert [p.title for p in named] == titles
    # Never the lines of the table of contents.
    assert all(p.start > BOOK.index("best of times") for p in named)


def test_larger_divisions_tell_equal_numbers_apart():
    text = "".join(
        f"BOOK {book}\n\nCHAPTER {n}\n\n{'words and words. ' * 30}\n\n" for book in ("ONE", "TWO") for n in (1, 2)
    )
    places = [p for i, p in enumerate(found(text)) if not (p.level == 1 and i in (2, 6))]
    assert len(places_named(places, "chapter 2")) == 2
    (named,) = places_named(places, "book two, chapter 2")
    assert named.start == text.rindex("CHAPTER 2")


def test_pages_and_numbered_headings():
    places = [Place("page", f"page {n}", 100 * n, 9) for n in range(5)]
    places += [Place("heading", "2. Methods", 30, 2), Place("heading", "2.3 The tide gauge", 60, 3)]
    assert [p.title for p in places_named(places, "pages 2-4")] == ["page 2", "page 3", "page 4"]
    assert [p.title for p in places_named(places, "section 2.3")] == ["2.3 The tide gauge"]
    assert [p.title for p in places_named(places, "what do the methods say")] == ["2. Methods"]
    assert [p.title for p in places_named(places, "what does chapter 2 say")] == ["2. Methods"]


def test_a_question_about_the_whole_names_what_is_said_of_it():
    places = [Place("heading", "piece 1 of 2", 0, 0), Place("heading", WHOLE, 90, 0)]
    assert places_named(places, "What is the plot of the story?") == places[1:]
    assert places_named(places, "Where is the harbour?") == []
    assert asks_whole("What is this book about?")
    assert not asks_whole("What is the captain angry about?")


def document(text: str, name: str = "tide.txt", digest: str = "1") -> Document:
    """A text as a document whose places are found as it is read."""
    places: list[Place] = []
    return Document(name, digest, found_in([text], places), places)


def read(session: Session, *documents: Document) -> Session:
    """The session, after it has read these."""
    for one in documents:
        list(read_document(session, one, every=64))
    session.checkpoint()
    return session


def spoken(session: Session, question: str) -> list[str]:
    """The text of the tokens that a question names."""
    return [session.transcript.text(*span) for span in named_spans(session.transcript, question)]


def test_places_are_kept_forked_exported_and_found_as_tokens(tiny, tmp_path):
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path / "store") as session:
        read(session, document(BOOK), document("# Ebb\n\nIt fell.", "ebb.md"))
        (first,) = spoken(session, "What is in chapter 2?")
        assert first.startswith("CHAPTER II. The Harbour\n")
        assert first.endswith("The tide rose. \n\n")
        assert spoken(session, 'What is in "Ebb"?') == ["# Ebb\n\nIt fell."]
        assert spoken(session, "chapter 2 in ebb.md") == []
        places = session.transcript.sources[0].places
    library = Library(tmp_path / "store")
    library.fork("default", "twin")
    library.export("default", tmp_path / "out.tar")
    library.delete("default")
    with Session.open(library.folder, "twin", tiny, chunk=16) as session:
        assert session.transcript.sources[0].places == places
        assert spoken(session, "chapter 2") == [first]
        session.forget("tide.txt", BOOK.rindex("CHAPTER I."), BOOK.rindex("CHAPTER II.") + 5)
        assert [p.title for p in session.transcript.sources[0].places if p.start > 200] == [places[-1].title]
    with library.database() as db:
        rows = db.execute("SELECT title FROM places WHERE start > 200").fetchall()
    assert [row[0] for row in rows] == [places[-1].title, "Ebb"][: len(rows)]
    assert library.sources(library.take(tmp_path / "out.tar", "back"))[0].places == places


def test_without_a_tokenizer_no_title_of_what_is_partly_forgotten_stays(tiny, tmp_path):
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        read(session, document(BOOK), document("# Ebb\n\n" + "It fell. " * 30, "ebb.md"))
        ebb = session.transcript.sources[1].places
        first = session.transcript.tokens_of(session.transcript.sources[0], BOOK.index("best of times"), len(BOOK))[0]
    with Session.open(tmp_path, "default", tiny.model, chunk=16) as session:
        session.forget((first, first + 2))
        assert [source.places for source in session.transcript.sources] == [(), ebb]
    library = Library(tmp_path)
    assert [source.places for source in library.sources(library.entry("default"))] == [(), ebb]


def test_places_are_saved_in_a_file(tiny, tmp_path):
    with Session(tiny, Blocks(**SMALL), chunk=16) as session:
        list(read_document(session, document(BOOK)))
        with session.fork() as twin:
            assert spoken(twin, "chapter 2") == spoken(session, "chapter 2") != []
        session.save(tmp_path / "file")
    with Session.load(tmp_path / "file", tiny, chunk=16) as session:
        assert session.transcript.sources[0].places == tuple(found(BOOK))


def test_a_reading_that_was_cut_off_finds_its_places_when_it_goes_on(tiny, tmp_path):
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        reading = read_document(session, document(BOOK), every=64)
        for _ in range(3):
            next(reading)
        session.checkpoint()
        assert spoken(session, "the last chapter") == []
    with Session.open(tmp_path, "default", tiny, chunk=16) as session:
        read(session, document(BOOK))
        assert len(spoken(session, "the last chapter")) == 1
        assert session.transcript.sources[0].places == tuple(found(BOOK))


def test_a_store_of_before_there_were_places_gets_the_table(tiny, tmp_path):
    with Session(tiny, Blocks(**SMALL), chunk=16, store=tmp_path) as session:
        session.feed("The tide rose. " * 20)
    with sqlite3.connect(tmp_path / "everlong.db") as db:
        db.execute("DROP TABLE places")
    db.close()
    with Session.open(tmp_path, "default", tiny, chunk=16) as session:
        assert session.transcript.sources[0].places == ()
        read(session, document(BOOK))
    library = Library(tmp_path)
    assert len(library.sources(library.entry("default"))[1].places) == len(found(BOOK))


def test_marked_headings_are_chapters_where_they_say_so():
    assert heading("Chapter 4:\n The  Ebb", 7, 1) == Place("chapter", "Chapter 4: The Ebb", 7, 1)
    assert heading("The book of tides", 0, 2).kind == "heading"
