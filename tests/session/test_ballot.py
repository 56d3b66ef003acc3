"""Which blocks are nearly as good as the best one, and whether one stands out, from the votes alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from everlong.session.meaning import Voted
from everlong.session.recall import Ballot

FORM = [0.5] * 7
"""The words' votes for the blocks of other names in a text of eight facts of one form."""


def ballot(words, heads=None, possible=5.0, rare=0.0, meaning=(), places=()):
    """A ballot with these votes of the words, and of four heads together (as shares of their attention)."""
    made = object.__new__(Ballot)
    scores = np.array(words, np.float64)
    made.words = SimpleNamespace(scores=scores, possible=possible, rare_cover=lambda block: rare)
    made.heads = None
    if heads is not None:
        made.heads = SimpleNamespace(votes=4 * np.array(heads, np.float32), by_head=[None] * 4)
    made.starts = np.arange(len(words) + 1) * 128
    made.meaning, made.places = list(meaning), list(places)
    return made


def meant(*cosines):
    return [Voted(128 * n, 128 * n + 20, cosine) for n, cosine in enumerate(cosines)]


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ({"words": [0.55, *FORM], "heads": [0.2] * 8}, False),
        ({"words": [0.7, *FORM], "heads": [0.03, 0.2, *[0] * 6]}, False),
        ({"words": [0.7, *FORM], "heads": [0.2, 0.3, *[0] * 6]}, True),
        ({"words": [1.0, *FORM], "heads": [0.03, 0.2, *[0] * 6]}, True),
        ({"words": [0.55, *FORM], "heads": [0.4, *[0] * 7]}, True),
        ({"words": [0.2, *[0.05] * 7], "heads": [0.2, *[0] * 7]}, False),
        ({"words": [0.7, *FORM]}, False),
        ({"words": [0.7, *FORM], "rare": 0.3}, True),
        ({"words": [0.0] * 8}, False),
    ],
    ids=[
        "no block has more of the words than others",
        "some more, and heads look elsewhere",
        "some more, and heads agree",
        "far more",
        "heads are sure",
        "words that do not count",
        "some more, no heads, rare words missing",
        "some more, no heads, rare words there",
        "nothing",
    ],
)
def test_whether_a_block_stands_out(votes, said):
    assert ballot(**votes).stands_out() == said


def test_one_sentence_far_ahead_in_meaning_stands_out_where_words_do_not_count():
    dull = [0.1] * 8
    assert ballot(dull, meaning=meant(0.4, 0.3)).stands_out()
    assert not ballot(dull, meaning=meant(0.4, 0.35)).stands_out()
    assert not ballot(dull, meaning=meant(0.25, 0.1)).stands_out()
    assert not ballot([0.55, *FORM], meaning=meant(0.4, 0.3)).stands_out()


def test_blocks_with_nearly_as_many_of_the_words_are_near():
    votes = ballot([1.0, 0.7, 0.6], [0.3, 0.0, 0.1])
    assert [votes._near(block, 0) for block in range(3)] == [True, True, False]


def test_a_block_that_heads_like_better_is_near():
    votes = ballot([1.0, 0.1, 0.1], [0.2, 0.25, 0.19])
    assert [votes._near(block, 0) for block in range(3)] == [True, True, False]


def test_where_words_do_not_count_heads_decide_what_is_near():
    votes = ballot([0.1, 0.1, 0.1], [0.3, 0.2, 0.19])
    assert [votes._near(block, 0) for block in range(3)] == [True, True, False]
