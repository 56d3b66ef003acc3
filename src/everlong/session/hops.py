"""The passage that a found passage leads to: what is asked for may stand in two sentences that share a name.

"The diary of Godwin lies in the violet chest", and elsewhere "The violet chest is in the attic": a question about the
diary has no word of the second sentence. So the words that the first one adds to the question are looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from everlong.text.tokenize import token_ids
from everlong.text.transcript import TokenRange

if TYPE_CHECKING:
    from everlong.session.recall import Ballot

LEAST_SHARE = 0.6
"""A block is led to if it holds so much of the words that the sentence adds, by weight, two of them in a row.

Measured on eight questions of two hops: .75 to .89, the next block .18 to .38; where one sentence says all, .09 to .30.
"""
APART = 0.7
"""And every other block at most so much of that."""
REACH = 1
"""Its words are looked for so few tokens apart: the sentence that they stand in is wanted, and not one beside it."""
_BREAK = -1


def next_hop(ballot: Ballot, sentence: str, span: TokenRange) -> tuple[int, int, float] | None:
    """Block, token and share of the words that `sentence`, in the passage `span`, adds to the question, elsewhere.

    None where it adds nothing that leads to one other block.
    """
    added = _added(ballot, sentence)
    votes = ballot.words_like(added)
    shares = votes.shares()
    # The passage leads elsewhere: its own blocks hold all of its words.
    inside = (ballot.starts[:-1] < span.end) & (ballot.starts[1:] > span.first)
    shares[inside] = 0
    shares[ballot.hidden] = 0
    first, *others = np.argsort(-shares)[:2]
    if shares[first] < LEAST_SHARE or any(shares[n] > APART * shares[first] for n in others):
        return None
    return int(first), int(ballot.starts[first]) + votes.peak(int(first), REACH), float(shares[first])


def _added(ballot: Ballot, sentence: str) -> list[int]:
    """The words of a sentence, breaks in place of those of the question and of what is no word."""
    tokenizer = ballot.session.tokenizer
    classes = ballot.session.word_classes
    asked = {int(classes[n]) for n in ballot.question}
    found = []
    for number in token_ids(tokenizer, f" {sentence}"):
        word = int(classes[number])
        is_word = any(letter.isalnum() for letter in tokenizer.decode([number]))
        found.append(word if is_word and word not in asked else _BREAK)
    return found
