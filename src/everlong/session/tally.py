"""What the votes for blocks come to: how strong each block is, which are nearly as good as the best, and whether one
stands out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from everlong.library.sentence_index import Voted
from everlong.methods.blocks.recall.vote import HeadVotes
from everlong.ops.recall import TINY, WordVotes, best_first

Voter = Literal["heads", "words", "both", "meaning"]
LEAST_COVER = 0.05
"""The words of a question vote where the best block has so much of what a block with every run of them would have.

Measured: .06 to .26 where the text answers in the question's words, .01 to .04 where it shares none that matter.
"""
NEAR = 0.65
"""A block with so much of the best one's vote is nearly as good.

By words, measured: .65 to 1 for another passage about the same thing, .07 to .73 (median .4) for one of the same form.
"""
AMONG = 16
"""And so it must be with the weights that words have among the best so many blocks alone.

In 128K tokens the words of a form are rare, and another fact of it has .65 of the vote whatever it is about. Measured
on 16 named values: .59 to .76 in all the text, .35 to .57 among the best.
"""
LIKE_OTHERS = 4
WORDS_PEAK = 1.3
WORDS_CLEAR = 1.8
WORDS_FAR = 3.0
"""How many times the words' vote of the fourth block the best one has where it stands out.

WORDS_FAR is enough. With WORDS_CLEAR it must hold some of the question's rare words too, with WORDS_PEAK heads must
agree as well. Measured on 34 texts with two models, medians: 1.1 to 1.2 (once 1.6, once 1.9) for a name that the text
does not have among eight of its form, 1.9 to 7 for one that it has (1.4 at the least).
"""
LEAST_RARE = 0.08
"""So much of the question's rare words, by weight, a block has that stands out; rare: in at most one block of eight.

Measured: .1 to .74 where the text answers, but 0 for keys of digits, which are WORDS_FAR ahead.
"""
HEADS_AGREE = 0.1
"""Heads agree if they give it so much of their attention on average, times the rarity of what they look for.

Measured with a 0.5B model: .1 to .55 where the text answers in the question's words.
"""
HEADS_PEAK = 0.35
"""So much is enough whatever the words say; measured .31 at most where the text does not answer."""
RARE_COVER = 0.17
"""In place of heads that agree, where the model has none: so much of the rare words."""
MEANING_PEAK = 0.3
MEANING_AHEAD = 1.25
"""It stands out by its meaning with so large a cosine that is so many times the next one.

Measured on 24 questions without a word of their fact: 11 of the 12 that are so are right, 4 of the other 12.
"""
MEANING_NEAR = 0.85
"""A sentence with so much of the best one's cosine is nearly as near in meaning."""
AGREE = 0.6
"""Two voters agree on a block where the smaller of their votes is so much of the larger."""


@dataclass
class VoteTally:
    """The votes of words, of heads (None: the model has none), and the sentences nearest in meaning, best first."""

    words: WordVotes
    heads: HeadVotes | None
    meaning: Sequence[Voted]

    @property
    def words_count(self) -> bool:
        """Whether the text has enough of the question's words for them to say where its answer is."""
        best = float(self.words.scores.max(initial=0.0))
        return best > 0 and best >= LEAST_COVER * self.words.possible

    @cached_property
    def strengths(self) -> NDArray[np.float64]:
        """For each block the words' vote over the best one's plus the share of their attention that heads give it.

        Over that of the best block. Heads alone, or words alone, where there is only one voter that counts.
        """
        found = np.zeros(len(self.words.scores))
        if self.heads is not None:
            found += self.heads.votes / len(self.heads.by_head)
        if self.words_count or self.heads is None:
            found += self.words.scores / max(float(self.words.scores.max(initial=0.0)), TINY)
        return found / max(float(found.max(initial=0.0)), TINY)

    def voter(self, block: int) -> Voter:
        """Who gives the block more, each measured by its best."""
        if self.heads is None or not self.words_count:
            return "words" if self.heads is None else "heads"
        words = self.words.scores[block] / self.words.scores.max()
        heads = self.heads.votes[block] / self.heads.votes.max()
        if min(words, heads) > AGREE * max(words, heads):
            return "both"
        return "words" if words > heads else "heads"

    def near(self, block: int, best: int) -> bool:
        """Whether a block is nearly as good as the best one by words (in all the text, and among the best blocks), or
        to the heads better than it.

        Where the words do not count: nearly as good to the heads. The best one is.
        """
        if block == best:
            return True
        if self.heads is not None:
            least = 1.0 if self.words_count else NEAR
            if self.heads.votes[block] >= least * self.heads.votes[best]:
                return True
        alike = bool(self.words.scores[block] >= NEAR * self.words.scores[best])
        return self.words_count and alike and self._among_best(block) >= NEAR * self._among_best(best)

    def _among_best(self, block: int) -> float:
        """The words' vote for a block among the best ones alone; 0 for one that is not of them."""
        return self._best.get(block, 0.0)

    @cached_property
    def _best(self) -> dict[int, float]:
        best = best_first(self.words.scores)[:AMONG]
        return dict(zip(best, self.words.among(best).tolist(), strict=True))

    def stands_out(self) -> bool:
        """Whether one passage is much more likely than others to hold an answer, to one of the voters."""
        if self.meaning and not self.words_count and self._meaning_stands_out():
            return True
        best = int(self.strengths.argmax())
        share = 0.0 if self.heads is None else float(self.heads.votes[best]) / len(self.heads.by_head)
        if share >= HEADS_PEAK:
            return True
        ahead = self._words_ahead()
        if ahead < WORDS_PEAK or not self.words_count:
            return False
        if ahead >= WORDS_FAR:
            return True
        rare = self.words.rare_cover(best)
        agreed = share >= HEADS_AGREE if self.heads is not None else rare >= RARE_COVER
        return rare >= LEAST_RARE and (ahead >= WORDS_CLEAR or agreed)

    def _meaning_stands_out(self) -> bool:
        best, other = ([*(piece.similarity for piece in self.meaning), 0.0])[:2]
        return best >= max(MEANING_PEAK, MEANING_AHEAD * other)

    def _words_ahead(self) -> float:
        """How many times the fourth block's score the best one has by words."""
        ranked = np.sort(self.words.scores)[::-1]
        other = float(ranked[min(LIKE_OTHERS, len(ranked)) - 1]) if len(ranked) > 1 else 0.0
        return float(ranked[0]) / max(other, TINY)
