"""Which passages of what a session read come back for a question: the voters, their ranks joined, and what to show.

Voters: retrieval heads over exact keys (memory/recall/vote.py) and the words of the question (ops/recall.py). Both vote
for blocks; what has left no block yet (the window, what is pending) is cut into blocks for the vote alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from everlong.memory.recall.rebuild import catch_up
from everlong.memory.recall.vote import HeadVotes
from everlong.ops.recall import WordVotes, best_first
from everlong.ops.spans import Ints
from everlong.session.meaning import Voted
from everlong.session.quoting import around, whole
from everlong.session.transcript import Passage, Stretch, Transcript

if TYPE_CHECKING:
    from everlong.memory.blocks.memory import BlockMemory
    from everlong.memory.recall.index import RecallIndex
    from everlong.session.session import Session

Way = Literal["again", "blocks"]
Voter = Literal["heads", "words", "both", "meaning"]
RANK_OFFSET = 5
"""Reciprocal ranks count 1 / (RANK_OFFSET + rank)."""
CANDIDATES = 16
"""Passages that a vote is kept of."""


@dataclass(frozen=True)
class Recalled(Passage):
    """A passage that came back: tokens `first` .. `last` - 1 of the stream, and its share of the vote (0 to 1).

    `sentence` is the one around which the vote was largest.
    """

    first: int
    last: int
    share: float
    voter: Voter
    sentence: str = ""


@dataclass(frozen=True)
class Candidate:
    """A block in the order of the vote: `token` of the stream is where the vote peaks in it."""

    block: int
    token: int
    share: float
    voter: Voter


@dataclass(frozen=True)
class Recall:
    """What came back for a question: all candidates, best first, and which of them were `shown` to the model.

    `way`: the passages were read again, or their blocks lie in the slots. Not `stands_out`: no passage is much more
    likely than others to hold an answer.
    """

    passages: tuple[Recalled, ...]
    stands_out: bool
    way: Way
    shown: tuple[Recalled, ...]
    blocks: tuple[int, ...]
    seconds: float


class Ballot:
    """One question put to the voters of a session that stores blocks."""

    def __init__(self, session: Session, question: list[int], text: str = "") -> None:
        self.session, self._memory = session, session.stored("recall")
        self.question = question
        self.starts = _starts(self._memory, session.seen_tokens)
        row = self._memory.rows[0]
        self._hidden = [n for n in row.dropped if n < len(self.starts) - 1]
        self.words = self._word_votes()
        self.heads = self._head_votes()
        self.meaning = self._meaning_votes(text)

    def _word_votes(self) -> WordVotes:
        classes = self.session.word_classes
        ids = np.frombuffer(self.session.transcript.ids, np.int32)[self.starts[0] : self.starts[-1]]
        found = WordVotes(classes[ids], self.starts, classes[np.array(self.question, np.int64)].tolist())
        found.scores[self._hidden] = 0
        return found

    def _meaning_votes(self, text: str) -> list[Voted]:
        """The pieces nearest in meaning to the question, best first; none without an encoder."""
        meaning = self.session.meaning
        if meaning is None or not text.strip():
            return []
        for _ in meaning.update(self.session.transcript):
            pass
        found = meaning.vote(text, self.session.transcript, CANDIDATES)
        return [v for v in found if self.starts[0] <= v.first and self._block(v.first) not in self._hidden]

    def _block(self, token: int) -> int:
        return int(np.searchsorted(self.starts, token, "right")) - 1

    def _head_votes(self) -> HeadVotes | None:
        """None where the model has no retrieval heads, or keys are missing."""
        if not catch_up(self._memory):
            return None
        queries = self.session.scout(torch.tensor(self.question))
        index = self._extended(self._memory.rows[0].recall)
        lengths = np.diff(self.starts)
        even = bool((lengths == index.tokens).all())
        return HeadVotes(index, queries, self._hidden, None if even else lambda a, b: lengths[a:b].tolist())

    def _extended(self, index: RecallIndex | None) -> RecallIndex:
        """The index with rows for what is in no block yet."""
        assert index is not None
        longer = index.fork()
        for block in range(index.blocks, len(self.starts) - 1):
            for layer in index.layers:
                keys = self.session.raw_keys(layer, int(self.starts[block]), int(self.starts[block + 1]))
                longer.put(layer, block, keys)
            longer.commit(block + 1)
        return longer

    def candidates(self) -> list[Candidate]:
        """The best blocks by reciprocal rank of both voters."""
        ranks = {"words": best_first(self.words.scores)[:CANDIDATES]}
        if self.heads is not None:
            ranks["heads"] = best_first(self.heads.votes)[:CANDIDATES]
        points: dict[int, float] = {}
        for ranked in ranks.values():
            for rank, block in enumerate(ranked):
                points[block] = points.get(block, 0.0) + 1 / (RANK_OFFSET + rank)
        total = sum(points.values())
        ordered = sorted(points, key=lambda block: (-points[block], block))[:CANDIDATES]
        return [Candidate(b, self._peak(b), points[b] / total, self._voter(ranks, b)) for b in ordered]

    @staticmethod
    def _voter(ranks: dict[str, list[int]], block: int) -> Voter:
        """Who had the block nearer to the first place."""
        at = {name: ranked.index(block) if block in ranked else CANDIDATES for name, ranked in ranks.items()}
        words, heads = at["words"], at.get("heads", CANDIDATES)
        if words == heads:
            return "both"
        return "words" if words < heads else "heads"

    def _peak(self, block: int) -> int:
        """The token of the stream around which the vote for a block is largest."""
        by_words = self.words.scores[block] > 0
        if self.heads is None or (by_words and self.words.scores.argmax() == block):
            return int(self.starts[block]) + self.words.peak(block)
        return int(self.starts[block]) + self.heads.peak(block)

    @property
    def block_tokens(self) -> int:
        """Tokens per block, at most."""
        return self._memory.settings.block

    def stands_out(self, candidates: list[Candidate]) -> bool:
        """Whether one passage is much more likely than others to hold an answer."""
        return bool(candidates)

    def trimmed(self, first: int, end: int, candidate: Candidate) -> Stretch:
        """The tokens `first` .. `end` - 1 as far as they are around the candidate, in its source, and not dropped."""
        bounds = [self.starts[0], self.starts[-1]]
        for block in self._hidden:
            edge = int(self.starts[block + 1]) if block < candidate.block else int(self.starts[block])
            bounds.append(edge)
        bounds += [source.first for source in self.session.transcript.sources]
        before = [b for b in bounds if b <= candidate.token]
        after = [b for b in bounds if b > candidate.token]
        return Stretch(max(first, *before), min(end, *after))


def _starts(memory: BlockMemory, seen: int) -> Ints:
    """First token of each block, and the one after the last: sealed blocks, then what is in none yet."""
    row, sealed = memory.rows[0], memory.sealed()
    found = [row.cuts.start(n) for n in range(sealed + 1)]
    found += range(found[-1] + memory.settings.block, seen, memory.settings.block)
    return np.array([*found, seen] if found[-1] < seen else found, dtype=np.int64)


def recalled(transcript: Transcript, candidate: Candidate, span: Stretch) -> Recalled:
    """A candidate with the whole sentences of its span, which lies in one source."""
    source = max((x for x in transcript.sources if x.first <= span.first), key=lambda x: x.first)
    (passage,) = transcript.passages(*span)[:1]
    a, b = whole(passage.text)
    kept = span
    if (a, b) != (0, len(passage.text)):
        kept = transcript.tokens_of(source, passage.start + a, passage.start + b)
        (passage,) = transcript.passages(*kept)[:1]
    peak = min(max(candidate.token, kept.first), kept.end - 1)
    before = len(transcript.text(kept.first, peak)) if peak > kept.first else 0
    first, end = around(passage.text, before)
    sentence = passage.text[first:end].strip()
    place = passage.source, passage.start, passage.end, passage.text
    return Recalled(*place, kept.first, kept.end, candidate.share, candidate.voter, sentence)


def merged(spans: list[Stretch]) -> list[Stretch]:
    """The spans without those that lie in an earlier one; what overlaps an earlier one is cut off."""
    kept: list[Stretch] = []
    for span in spans:
        first, end = span
        for other in kept:
            if other.first <= first < other.end:
                first = min(end, other.end)
            elif other.first < end <= other.end:
                end = other.first
        if first < end:
            kept.append(Stretch(first, end))
    return kept
