"""Which passages of what a session read come back for a question: the voters, their ranks joined, and what to show.

Voters: retrieval heads over exact keys (methods/blocks/recall/vote.py) and the words of the question (ops/recall.py).
Both vote for blocks; what has left no block yet (the window, what is pending) is cut into blocks for the vote alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from everlong.library.sentence_index import Voted
from everlong.methods.blocks.recall.rebuild import catch_up
from everlong.methods.blocks.recall.vote import HeadVotes
from everlong.ops.recall import WordVotes, best_first
from everlong.ops.spans import Ints
from everlong.session.named_places import named_spans
from everlong.session.tally import MEANING_NEAR, Voter, VoteTally
from everlong.text.quoting import likewise, quoted, whole
from everlong.text.transcript import Passage, TokenRange, Transcript

if TYPE_CHECKING:
    from everlong.engine.writing import WritingStream
    from everlong.methods.blocks.memory import BlockMemory
    from everlong.methods.blocks.recall.index import RecallIndex
    from everlong.methods.blocks.recall.scout import Queries

Way = Literal["again", "blocks"]
CANDIDATES = 16
"""Passages that a vote is kept of."""


@dataclass(frozen=True)
class Recalled(Passage):
    """A passage that came back: tokens `first` .. `last` - 1 of the stream, and its share of the vote (0 to 1).

    `sentence` is the one with most of the question's words, or else the one where the vote was largest. `near`: nearly
    as good as the best one. `hop`: the best one leads to it, by words that the question does not have.
    """

    first: int
    last: int
    share: float
    voter: Voter
    sentence: str = ""
    near: bool = True
    hop: bool = False

    def repeated(self, question: str) -> list[str]:
        """Its sentences with as many of a question's words as `sentence`; that one alone if other words led to it."""
        sentence = self.sentence.strip()
        return [sentence] if self.hop else likewise(self.text, question, sentence)


@dataclass(frozen=True)
class Candidate:
    """A block in the order of the vote: `token` of the stream is where the vote peaks in it.

    `strength` is its vote, of heads and words, over that of the best block (0 to 1); `share` its part of the strength
    of all candidates. `near`: nearly as good as the best one, or better to one of the voters. `hop`: the best one leads
    to it (session/hops.py). `said`: the sentence that was found, of one found by its meaning.
    """

    block: int
    token: int
    share: float
    voter: Voter
    strength: float
    near: bool = True
    hop: bool = False
    said: TokenRange | None = None


@dataclass(frozen=True)
class Recall:
    """What came back for a question: all candidates, best first, and which of them were `shown` to the model.

    `way`: the passages were read again, or their blocks lie in the slots. Not `stands_out`: no passage is much more
    likely than others to hold an answer. `among` says of how many they were chosen.
    """

    passages: tuple[Recalled, ...]
    stands_out: bool
    way: Way
    shown: tuple[Recalled, ...]
    blocks: tuple[int, ...]
    seconds: float
    among: int = 0


class Ballot:
    """One question put to the voters of a session that stores blocks.

    Where the question names a part of what was read (a chapter, a page, a heading), only blocks of it take part.
    With `queries`, those that were `scouted`, the model is not asked: the votes can be counted in any thread.
    """

    def __init__(
        self, session: WritingStream, question: list[int], text: str = "", queries: dict[int, Queries] | None = None
    ) -> None:
        self.session, self._memory = session, session.stored("recall")
        self.question = question
        self._queries = queries
        self.text = text
        self.starts = _starts(self._memory, session.seen_tokens)
        row = self._memory.rows[0]
        self.places = [s for s in named_spans(session.transcript, text) if s.end > self.starts[0]]
        self.hidden = sorted({n for n in row.dropped if n < len(self.starts) - 1} | self._elsewhere())
        """Blocks that may not come back."""
        self.among = len(self.starts) - 1 - sum(n < len(self.starts) - 1 for n in row.dropped)
        """How many passages there are, those that were dropped left out."""
        self.words = self._word_votes()
        self.heads = self._head_votes()
        self.meaning = self._meaning_votes(text)
        self.tally = VoteTally(self.words, self.heads, self.meaning)

    def _elsewhere(self) -> set[int]:
        """The blocks that hold nothing of the places that the question names, if it names any."""
        if not self.places:
            return set()
        inside: set[int] = set()
        for span in self.places:
            first = max(span.first, int(self.starts[0]))
            inside.update(range(self._block(first), self._block(span.end - 1) + 1))
        return set(range(len(self.starts) - 1)) - inside

    def _word_votes(self) -> WordVotes:
        classes = self.session.word_classes
        found = self.words_like(classes[np.array(self.question, np.int64)].tolist())
        found.scores[self.hidden] = 0
        return found

    def words_like(self, words: list[int]) -> WordVotes:
        """The votes for words (as `Session.word_classes` numbers them) in place of the question's."""
        ids = np.frombuffer(self.session.transcript.ids, np.int32)[self.starts[0] : self.starts[-1]]
        return WordVotes(self.session.word_classes[ids], self.starts, words)

    def _meaning_votes(self, text: str) -> list[Voted]:
        """The pieces nearest in meaning to the question, best first; none without an encoder."""
        meaning = self.session.meaning
        if meaning is None or not text.strip():
            return []
        for _ in meaning.update(self.session.transcript):
            pass
        # Where a place was named most pieces lie elsewhere and are left out below: enough are asked for to be left.
        most = len(self.starts) * CANDIDATES if self.places else 2 * CANDIDATES
        found = meaning.vote(text, self.session.transcript, most)
        here = [v for v in found if self.starts[0] <= v.first and self._block(v.first) not in self.hidden]
        return here[:CANDIDATES]

    def _block(self, token: int) -> int:
        return int(np.searchsorted(self.starts, token, "right")) - 1

    def _head_votes(self) -> HeadVotes | None:
        """None where the model has no retrieval heads, or keys are missing."""
        queries = scouted(self.session, self.question) if self._queries is None else self._queries
        if not queries:
            return None
        index = self._extended(self._memory.rows[0].recall)
        lengths = np.diff(self.starts)
        even = bool((lengths == index.tokens).all())
        known = None if even else lambda a, b: lengths[a:b].tolist()
        return HeadVotes(index, queries, self._memory.rows[0].sink_keys, self.words.rarity, self.hidden, known)

    def _extended(self, index: RecallIndex | None) -> RecallIndex:
        """The index with rows for what is in no block yet."""
        assert index is not None
        longer = index.fork()
        if index.blocks == len(self.starts) - 1:
            return longer
        first, end = int(self.starts[index.blocks]), int(self.starts[-1])
        for layer in index.layers:
            keys = self.session.runner.raw_keys(layer, first, end)
            block = index.blocks
            for length, equal in groupby(np.diff(self.starts[block:]).tolist()):
                n = len(list(equal))
                at = int(self.starts[block]) - first
                longer.put(layer, block, keys[:, at : at + n * length].unflatten(1, (n, length)).transpose(0, 1))
                block += n
        longer.commit(len(self.starts) - 1)
        return longer

    def candidates(self) -> list[Candidate]:
        """The best blocks: by heads and words, or where the words do not count by meaning and heads in turn."""
        strengths = self.tally.strengths
        order = best_first(strengths)[:CANDIDATES] or self._beginnings()
        total = float(strengths[order].sum()) or 1.0
        found = [self._candidate(b, order[0], float(strengths[b]), total) for b in order]
        meant = self._meant()
        if not meant:
            return found
        if self.tally.words_count:
            clear = self.stands_out()
            return in_turn(found, [replace(c, near=c.near and not clear) for c in meant])
        # Heads alone find little where the words do not count: behind what the encoder found.
        return in_turn(meant, [replace(c, strength=c.strength * meant[-1].strength, near=False) for c in found])

    def _candidate(self, block: int, best: int, strength: float, total: float) -> Candidate:
        token = self._within(self._peak(block), block)
        return Candidate(
            block, token, strength / total, self.tally.voter(block), strength, self.tally.near(block, best)
        )

    def _within(self, token: int, block: int) -> int:
        """The token, or where it lies in none of the places that were named the nearest of its block that does."""
        if not self.places or any(span.first <= token < span.end for span in self.places):
            return token
        first = int(self.starts[block])
        end = int(self.starts[block + 1])
        edges = [edge for span in self.places for edge in (max(span.first, first), min(span.end, end) - 1)]
        inside = [edge for edge in edges if first <= edge < end and any(s.first <= edge < s.end for s in self.places)]
        return min(inside, key=lambda edge: abs(edge - token))

    def _beginnings(self) -> list[int]:
        """The first block of each place that was named, where nobody votes for any in it."""
        return [
            n for n in (self._block(max(s.first, int(self.starts[0]))) for s in self.places) if n not in self.hidden
        ]

    def _meant(self) -> list[Candidate]:
        """The blocks of the pieces that are nearest in meaning, each once."""
        found: dict[int, Candidate] = {}
        for piece in self.meaning:
            token = (piece.first + piece.end) // 2
            block = self._block(token)
            near = piece.similarity >= MEANING_NEAR * self.meaning[0].similarity
            said = TokenRange(piece.first, piece.end)
            cosine = piece.similarity
            found.setdefault(block, Candidate(block, token, cosine, "meaning", cosine, near, said=said))
        return list(found.values())

    def _peak(self, block: int) -> int:
        """The token of the stream around which the vote for a block is largest."""
        by_words = self.words.scores[block] > 0
        if self.heads is None or (by_words and self.words.scores.argmax() == block):
            return int(self.starts[block]) + self.words.peak(block)
        return int(self.starts[block]) + self.heads.peak(block)

    def stands_out(self) -> bool:
        """Whether one passage is much more likely than others to hold an answer, or a place was named."""
        return bool(self.places) or self.tally.stands_out()

    def trimmed(self, first: int, end: int, candidate: Candidate) -> TokenRange:
        """The tokens `first` .. `end` - 1 as far as they are around the candidate, in its source, and not dropped."""
        bounds = [int(self.starts[0]), int(self.starts[-1])]
        bounds += [int(self.starts[b + 1 if b < candidate.block else b]) for b in self.hidden]
        bounds += [source.first for source in self.session.transcript.sources]
        bounds += [edge for span in self.places for edge in span]
        before = [b for b in bounds if b <= candidate.token]
        after = [b for b in bounds if b > candidate.token]
        return TokenRange(max(first, *before), min(end, *after))


def scouted(session: WritingStream, question: list[int]) -> dict[int, Queries]:
    """What heads look for in a question, by layer, which is read and not kept; none without heads, or their keys."""
    if not catch_up(session.stored("recall").rows[0]):
        return {}
    return session.runner.scout(torch.tensor(question))


def in_turn(first: list[Candidate], second: list[Candidate]) -> list[Candidate]:
    """Two of the first list, then one of the second, then by turns; each block once."""
    mixed = [c for pair in zip_longest(second, first[2:]) for c in pair if c is not None]
    found: dict[int, Candidate] = {}
    for candidate in [*first[:2], *mixed]:
        found.setdefault(candidate.block, candidate)
    return list(found.values())


def _starts(memory: BlockMemory, seen: int) -> Ints:
    """First token of each block, and the one after the last: sealed blocks, then what is in none yet."""
    row = memory.rows[0]
    found = [row.cuts.start(n) for n in range(row.sealed + 1)]
    found += range(found[-1] + memory.settings.block, seen, memory.settings.block)
    return np.array([*found, seen] if found[-1] < seen else found, dtype=np.int64)


def recalled(transcript: Transcript, candidate: Candidate, span: TokenRange, question: str) -> Recalled:
    """A candidate with the whole sentences of its span, which lies in one source."""
    source = max((x for x in transcript.sources if x.first <= span.first), key=lambda x: x.first)
    (passage,) = transcript.passages(*span)[:1]
    a, b = whole(passage.text)
    kept = span
    if (a, b) != (0, len(passage.text)):
        # A token has the space before its word: with the space behind a sentence the next word would come too.
        b = a + (len(passage.text[a:b].rstrip()) or b - a)
        kept = transcript.tokens_of(source, passage.start + a, passage.start + b)
        (passage,) = transcript.passages(*kept)[:1]
    peak = min(max(candidate.token, kept.first), kept.end - 1)
    before = len(transcript.text(kept.first, peak)) if peak > kept.first else 0
    sentence = quoted(passage.text, "" if candidate.hop else question, before)
    place = passage.source, passage.start, passage.end, passage.text
    vote = candidate.share, candidate.voter, sentence, candidate.near, candidate.hop
    return Recalled(*place, kept.first, kept.end, *vote)
