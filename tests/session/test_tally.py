"""Which blocks are nearly as good as the best one, and whether one stands out, from the votes alone."""

from __future__ import annotations

from unittest.mock import create_autospec

import numpy as np
import pytest

from everlong.library.sentence_index import Voted
from everlong.methods.blocks.recall.vote import HeadVotes
from everlong.ops.recall import WordVotes
from everlong.session.tally import NEAR, VoteTally

FORM = [0.5] * 7
"""The words' votes for the blocks of other names in a text of eight facts of one form."""


def tally(words, heads=None, possible=5.0, rare=0.0, meaning=()):
    """These votes of the words, and of four heads together (as shares of their attention)."""
    by_words = create_autospec(WordVotes, instance=True)
    by_words.scores, by_words.possible = np.array(words, np.float64), possible
    by_words.rare_cover.return_value = rare
    by_words.among.side_effect = lambda blocks: by_words.scores[blocks]
    by_heads = None
    if heads is not None:
        by_heads = create_autospec(HeadVotes, instance=True)
        by_heads.votes, by_heads.by_head = 4 * np.array(heads, np.float32), [None] * 4
    return VoteTally(by_words, by_heads, list(meaning))


def meant(*cosines):
    return [Voted(128 * n, 128 * n + 20, cosine) for n, cosine in enumerate(cosines)]


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ({"words": [0.55, *FORM], "heads": [0.2] * 8}, False),
        ({"words": [0.7, *FORM], "heads": [0.03, 0.2, *[0] * 6]}, False),
        ({"words": [0.7, *FORM], "heads": [0.2, 0.3, *[0] * 6], "rare": 0.1}, True),
        ({"words": [1.0, *FORM], "heads": [0.03, 0.2, *[0] * 6], "rare": 0.1}, True),
        ({"words": [1.0, *FORM], "heads": [0.2, 0.3, *[0] * 6], "rare": 0.0}, False),
        ({"words": [1.6, *FORM], "heads": [0.03, 0.2, *[0] * 6], "rare": 0.0}, True),
        ({"words": [0.55, *FORM], "heads": [0.4, *[0] * 7]}, True),
        ({"words": [0.2, *[0.05] * 7], "heads": [0.2, *[0] * 7]}, False),
        ({"words": [0.7, *FORM], "rare": 0.1}, False),
        ({"words": [0.7, *FORM], "rare": 0.3}, True),
        ({"words": [0.0] * 8}, False),
    ],
    ids=[
        "no block has more of the words than others",
        "some more, and heads look elsewhere",
        "some more, and heads agree",
        "far more, and some of the rare words",
        "far more, and none of the rare words",
        "so many more that rare words do not matter",
        "heads are sure",
        "words that do not count",
        "some more, no heads, rare words missing",
        "some more, no heads, rare words there",
        "nothing",
    ],
)
def test_whether_a_block_stands_out(votes, said):
    assert tally(**votes).stands_out() == said


def test_one_sentence_far_ahead_in_meaning_stands_out_where_words_do_not_count():
    dull = [0.1] * 8
    assert tally(dull, meaning=meant(0.4, 0.3)).stands_out()
    assert not tally(dull, meaning=meant(0.4, 0.35)).stands_out()
    assert not tally(dull, meaning=meant(0.25, 0.1)).stands_out()
    assert not tally([0.55, *FORM], meaning=meant(0.4, 0.3)).stands_out()


def test_in_a_long_text_words_of_the_form_make_no_block_near():
    """Eight facts of one form among 1,000 blocks: the form is rare, and yet only the name says which one is meant."""
    form, names = [1, 2, 3, 4], range(10, 18)
    ids = np.zeros(1000 * 16, np.int64)
    for n, name in enumerate(names):
        ids[1000 + 1600 * n : 1005 + 1600 * n] = [*form, name]
    asked = WordVotes(ids, np.arange(0, len(ids) + 1, 16), [*form, 10])
    right, wrong = ((1000 + 1600 * n) // 16 for n in (0, 1))
    assert asked.scores[wrong] >= NEAR * asked.scores[right]
    assert VoteTally(asked, None, []).near(right, right)
    assert not VoteTally(asked, None, []).near(wrong, right)


def test_blocks_with_nearly_as_many_of_the_words_are_near():
    votes = tally([1.0, 0.7, 0.6], [0.3, 0.0, 0.1])
    assert [votes.near(block, 0) for block in range(3)] == [True, True, False]


def test_a_block_that_heads_like_better_is_near():
    votes = tally([1.0, 0.1, 0.1], [0.2, 0.25, 0.19])
    assert [votes.near(block, 0) for block in range(3)] == [True, True, False]


def test_where_words_do_not_count_heads_decide_what_is_near():
    votes = tally([0.1, 0.1, 0.1], [0.3, 0.2, 0.19])
    assert [votes.near(block, 0) for block in range(3)] == [True, True, False]


def test_the_best_block_is_near_without_heads_and_words():
    votes = tally([0.1, 0.09])
    assert [votes.near(block, 0) for block in range(2)] == [True, False]
