"""What stands in an answer."""

from __future__ import annotations

import pytest

from everlong.evaluate.metrics.strings import any_found, first_number, share_found, words_named


@pytest.mark.parametrize(
    ("said", "number"),
    [(" 0042. Then 7", "0042"), ("<5>", "5"), ("none", ""), ("", ""), ("It is 12,345", "12"), ("a7b8", "7")],
)
def test_the_first_number(said, number):
    assert first_number(said) == number


def test_shares_by_hand():
    gold = ("Amber", "fig", "oak tree", "12")
    assert share_found("AMBER, a Fig and an oak  tree", gold) == 0.5
    assert share_found("amber fig oak tree 3123", gold) == 1
    assert (share_found("", gold), any_found("", gold), any_found("12", gold)) == (0, 0, 1)


def test_words_are_whole():
    words = {"none", "one", "two"}
    assert words_named("None.", words) == {"none"}
    assert words_named("One or TWO, someone said", words) == {"one", "two"}
    assert words_named("", words) == set()
