"""Whole sentences, places and lines of citations; quotations looked up in what was read."""

from __future__ import annotations

import pytest

from everlong.session.citations import cited, spot
from everlong.session.quotations import quotations
from everlong.text.lines import Lines, line_at
from everlong.text.places import Place
from everlong.text.tokenize import token_rows
from everlong.text.transcript import ANSWER, Passage, Transcript

TEXT = (
    "It was noon. The gulls of Lima, as every checkpointer of the harbour knew well,\nsleep in crate 7342 by the pier. "
    "He said: “The tide won’t wait,” and left.\nThe end of it all -- came late.\n"
)


@pytest.fixture
def transcript(tokenizer):
    """Reads texts by name, as they are fed."""
    found = Transcript(tokenizer)

    def add(text, name="a.txt"):
        for rows in token_rows([text], tokenizer):
            found.add(rows[:, 0].tolist(), name, rows)
        return found

    return add


def test_a_cut_sentence_is_made_whole(transcript):
    found = transcript(TEXT)
    start, end = TEXT.index("harbour knew"), TEXT.index("by the pier")
    passage = Passage("a.txt", start, end, TEXT[start:end])
    whole = cited(found, passage, 1.0, passage.text.strip(), "Where do the gulls sleep?")
    assert whole.sentence == TEXT[13 : TEXT.index(" He said")]
    assert (whole.line, whole.name, whole.text) == (1, "a.txt", passage.text)


def test_of_a_long_log_the_line_with_the_words_is_cited(transcript):
    log = "".join(f"2026-11-27 08:{n:02} pump {n} of the harbour was started by hand\n" for n in range(20))
    found = transcript(log, "a.log")
    passage = Passage("a.log", 0, len(log), log)
    best = cited(found, passage, 1.0, log.strip(), "Which hand started number 12 (08:12)?")
    assert (best.line, best.sentence) == (13, "2026-11-27 08:12 pump 12 of the harbour was started by hand")


def test_a_long_sentence_in_wrapped_lines_stays_whole(transcript):
    text = "If You\n" + "institute patent litigation against any entity,\n" * 12 + "It then terminates at noon.\n"
    found = transcript(text)
    best = cited(found, Passage("a.txt", 0, len(text), text), 1.0, text.strip(), "What terminates at noon?")
    assert (best.line, best.sentence) == (1, text.strip())


def test_a_sentence_that_never_ends_is_left_as_it_was_found(transcript):
    text = "word and " * 800
    found = transcript(text)
    passage = Passage("a.txt", 3000, 3090, text[3000:3090])
    assert cited(found, passage, 1.0, passage.text.strip()).sentence == passage.text.strip()


def test_what_a_place_lies_under(transcript):
    found = transcript("x" * 500)
    (source,) = found.sources
    source.places = (
        Place("chapter", "Chapter 1", 0, 1),
        Place("page", "page 1", 0, 9),
        Place("heading", "Ebb", 50, 2),
        Place("page", "page 2", 100, 9),
        Place("chapter", "Chapter 2", 200, 1),
    )
    assert [(s.page, s.chapter, s.heading) for s in (spot(found, source, at) for at in (10, 60, 150, 250))] == [
        (1, "Chapter 1", None),
        (1, "Chapter 1", "Ebb"),
        (2, "Chapter 1", "Ebb"),
        (2, "Chapter 2", None),
    ]


def test_lines_of_what_was_fed_without_a_file_are_counted_in_the_text(transcript):
    found = transcript(TEXT)
    (source,) = found.sources
    assert [spot(found, source, TEXT.index(w)).line for w in ("It was", "sleep", "He said", "The end")] == [1, 2, 2, 3]
    found.forget(3, 6)
    assert spot(found, source, TEXT.index("The end")).line is None


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_however_the_text_comes(cut):
    text = "a\r\n\r\nb\n\nc\r\nlast"
    lines = Lines()
    assert "".join(lines.through(text[n : n + cut] for n in range(0, len(text), cut))) == text
    for begin in range(len(text)):
        packed = lines.packed(begin)
        for at in range(begin, len(text)):
            assert line_at(packed, at) == 1 + text[:at].count("\n")
    assert line_at("", 3) is None


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ('It says "the gulls of Lima, as every checkpointer" there.', 1),
        ("It says “sleep in crate 7342 by the pier.”", 2),
        ("»No«: «as every checkpointer of the harbour knew well, sleep in crate»", 1),
        ("„The tide won't wait“", 2),
        ('"The gulls of Lima ... by the pier"', 1),
        ('"the end of it all — came late"', 3),
    ],
)
def test_a_quotation_that_was_read_has_its_place(transcript, answer, line):
    (found,) = quotations(transcript(TEXT), answer)
    assert (found.found, found.name, found.line) == (True, "a.txt", line)
    assert found.start < found.end <= len(TEXT)


@pytest.mark.parametrize(
    "answer",
    [
        '"The gulls of Lima sleep in crate 7342"',
        "“by the pier ... The gulls of Lima”",
        '"ulls of Lima, as every checkpointer"',
        '"What the model has said itself"',
    ],
)
def test_a_quotation_that_was_not_read_is_not_found(transcript, answer):
    transcript(TEXT)
    (found,) = quotations(transcript("What the model has said itself", ANSWER), answer)
    assert (found.found, found.source, found.line) == (False, None, None)


def test_names_and_words_of_the_question_are_not_looked_up(transcript):
    found = transcript(TEXT)
    assert quotations(found, 'It is "Lima" and "the pier". "who killed the cook?"', "Who killed the cook?") == []
    assert len(quotations(found, '"one two three" "one two three" "four five six"')) == 2


def test_a_quotation_far_into_a_long_text_is_found(transcript):
    text = "".join(f"Line {n} is here.\n" for n in range(1500)) + "The key to the gate is red.\n"
    (found,) = quotations(transcript(text), '"the key to the gate"')
    assert (found.line, text[found.start : found.end]) == (1501, "The key to the gate")
