"""Where passages and facts stand, computed by hand."""

from __future__ import annotations

import pytest

from everlong import Blocks, Dense
from everlong.evaluate.recall.places import CharSpan, covered, fact_span, is_stored, passage_span, rank
from everlong.text.transcript import Passage
from tests.evaluate import layouts

TEXT = "One. Two is two. Three is three. Four."


def passage(start, end, text=None):
    return Passage("text", start, end, TEXT[start:end] if text is None else text)


def test_a_passage_is_where_it_says_or_where_its_text_stands():
    assert passage_span(TEXT, passage(5, 16)) == (5, 16)
    assert passage_span(TEXT, passage(3, 14, "Two is two.")) == (5, 16)
    assert passage_span(TEXT, passage(3, 14, "Tw\ufffd is two")) == (3, 14)


def test_a_fact_may_come_back_in_parts_but_must_come_back_wholly():
    fact = fact_span(TEXT, "Two is two. Three is three.")
    assert fact == (5, 32)
    assert covered(TEXT, fact, [CharSpan(0, 40)])
    assert covered(TEXT, fact, [CharSpan(17, 32), CharSpan(2, 16)])  # the space between them was cut off
    assert covered(TEXT, fact, [CharSpan(2, 20), CharSpan(12, 32)])
    assert not covered(TEXT, fact, [CharSpan(2, 15), CharSpan(16, 32)])
    assert not covered(TEXT, fact, [CharSpan(5, 31)])
    assert not covered(TEXT, fact, [CharSpan(6, 32)])
    assert not covered(TEXT, fact, [])


def test_the_rank_is_that_of_the_first_passage_with_half_of_the_fact():
    fact = CharSpan(10, 20)
    assert rank(fact, [CharSpan(0, 10), CharSpan(0, 14), CharSpan(15, 30), CharSpan(0, 40)]) == 3
    assert rank(fact, [CharSpan(10, 20)]) == 1
    assert rank(fact, [CharSpan(0, 14), CharSpan(16, 30)]) is None
    assert rank(fact, []) is None


@pytest.mark.parametrize(("start", "stored"), [(0, False), (30, False), (50, True), (200, True), (260, False)])
def test_what_must_come_back_is_neither_a_sink_nor_recent(start, stored):
    # One character is a token here; 40 sinks, and 100 + 20 tokens that are not stored yet.
    text = "." * start + "x" * 10 + "." * (360 - start)
    span = CharSpan(start, start + 10)
    assert is_stored(layouts.tokens, Blocks(sinks=40, window=100, block=20), text, span) is stored
    assert not is_stored(layouts.tokens, Dense(), text, span)
