"""What a found passage leads to: the block with the words that its sentence adds to the question."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from everlong.ops.recall import WordVotes
from everlong.session.hops import next_hop
from everlong.text.transcript import TokenRange

QUESTION = "in which room is the diary of godwin"
FIRST = "the diary of godwin lies in the violet chest"
SECOND = "the violet chest is in the attic"
DULL = "it was the best of times and it was the worst of times in the town "


class Words:
    """A tokenizer of words."""

    def __init__(self):
        self.ids = {}

    def __call__(self, text, **_):
        return {"input_ids": [self.ids.setdefault(word, len(self.ids)) for word in text.split()]}

    def decode(self, ids):
        names = list(self.ids)
        return " ".join(names[n] for n in ids)


def ballot(sentences, hidden=()):
    """Blocks of 20 words, each a sentence in dull filler."""
    tokenizer = Words()
    ids = np.array([tokenizer(f"{sentence} {DULL * 2}")["input_ids"][:20] for sentence in sentences]).flatten()
    starts = np.arange(0, len(ids) + 1, 20)
    session = SimpleNamespace(tokenizer=tokenizer, word_classes=np.arange(1000))
    return SimpleNamespace(
        session=session,
        starts=starts,
        hidden=list(hidden),
        question=tokenizer(QUESTION)["input_ids"],
        words_like=lambda words: WordVotes(ids, starts, words),
    )


def test_the_block_with_the_words_that_are_new_is_led_to():
    block, token, share = next_hop(ballot([*[""] * 5, FIRST, *[""] * 4, SECOND, ""]), FIRST, TokenRange(100, 120))
    assert block == 10
    # "violet chest" stands behind "the".
    assert 201 <= token <= 202
    assert share > 0.6


@pytest.mark.parametrize(
    ("others", "hidden"),
    [
        (["the diary of wulfric lies in the pink chest"], ()),
        (["the chest was violet"], ()),
        ([SECOND, "a violet chest"], ()),
        ([SECOND], (6,)),
    ],
    ids=["one of its form", "no run of two words", "two blocks", "a dropped block"],
)
def test_nothing_is_led_to(others, hidden):
    blocks = [*[""] * 5, FIRST, *others, *[""] * 6]
    assert next_hop(ballot(blocks, hidden), FIRST, TokenRange(100, 120)) is None


def test_a_sentence_that_adds_nothing_leads_nowhere():
    assert next_hop(ballot(["", QUESTION, SECOND, ""]), QUESTION, TokenRange(20, 40)) is None
