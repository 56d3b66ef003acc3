"""Whole sentences: where a passage is cut, and which sentence of it is quoted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from everlong.text.quoting import ALIKE, by_answer, likewise, line_of, quoted, whole

TEXT = "of the tide. The gulls of Lima sleep in crate 7342. “Who knows?” said he.\n\nNobody did; the tide"


def test_a_passage_begins_and_ends_with_a_sentence():
    first, end = whole(TEXT)
    assert TEXT[first:end] == "The gulls of Lima sleep in crate 7342. “Who knows?” said he.\n\n"


@pytest.mark.parametrize("text", ["", "no end", "one. " + "long " * 50, "。" * 9, "a\n\n" * 3])
def test_what_has_no_sentence_stays_nearly_whole(text):
    first, end = whole(text)
    assert 0 <= first <= end <= len(text)
    assert end - first >= len(text) / 3


def test_japanese_sentences_end_too():
    text = "最初の文。" + "二番目の文はここにあります。" * 2 + "終わり"
    assert quoted(text, "", 7) == "二番目の文はここにあります。"


@pytest.mark.parametrize(
    ("question", "at", "wanted"),
    [
        ("Where do the gulls sleep?", 0, "The gulls of Lima sleep in crate 7342."),
        ("What is in 7342?", 90, "The gulls of Lima sleep in crate 7342."),
        ("Is it so?", 60, "“Who knows?” said he."),
        ("tide", 95, "Nobody did; the tide"),
        ("tide", 2, "of the tide."),
    ],
)
def test_the_sentence_with_most_of_the_question_is_quoted(question, at, wanted):
    assert quoted(TEXT, question, at) == wanted


def test_sentences_with_as_many_words_of_the_question_go_together():
    old, other, new = "The code is 4711.", "It rained.", "Then the code was 5822."
    assert likewise(f"{old} {other} {new}", "the code?", old) == [old, new]
    assert likewise(f"{old} {other} {new}", "rained, 4711?", old) == [old, other]
    assert likewise(f"{old} {other} {new}", "the gulls?", old) == [old]
    assert likewise(f"{old} " * (ALIKE + 1), "the code?", old) == [old]
    assert likewise("", "the code?", "") == [""]


def test_a_record_is_the_line_with_all_words_that_are_asked_for():
    table = "line able-crow: <17>\nline calm-crow: <23>\nline calm-goat: <31>"
    assert line_of(table, "What is in line calm-crow?") == "line calm-crow: <23>"
    assert line_of(table, "What is in line able-goat?") == ""
    assert line_of(table, "What else?") == ""


def test_nothing_is_quoted_of_nothing():
    assert quoted("  ", "gulls", 0) == ""


def test_the_passage_that_says_what_the_answer_says_comes_first():
    old, new, other = (
        SimpleNamespace(text=f"The code of the lodge {rest}") for rest in ("is 4711.", "is now 5822.", ".")
    )
    assert by_answer([old, new, other], "What is the code of the lodge?", " 5822.") == [new, old, other]
    assert by_answer([old, new, other], "What is the code of the lodge?", "The code of the lodge") == [old, new, other]
