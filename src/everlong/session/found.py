"""What a vote found: the passages around its peaks, the best first, and which of them are read again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from everlong.engine.writing import WritingStream
from everlong.session.hops import next_hop
from everlong.session.recall import Ballot, Candidate, Recall, Recalled, Way, recalled
from everlong.text.transcript import TokenRange, Transcript

PASSAGES = 2
"""Passages read again at most, unless said otherwise."""
MOST_PASSAGES = 4
"""What `auto` takes at most."""
STRONG = 0.65
"""Beyond PASSAGES a passage must have so much of the best one's vote, of all voters together.

Measured with a 0.5B model: .71 to 1 for the other two of three facts that are asked for together, .28 to .59 (once .77)
for passages about somebody else that heads alone found nearly as good.
"""
AROUND_TOKENS = 112
"""A passage reaches so far to either side of the vote's peak, before it is cut to whole sentences."""


class Found:
    """The candidates of a ballot with their passages: the best first, none with its peak in a better one's passage."""

    def __init__(self, ballot: Ballot) -> None:
        self._ballot = ballot
        self.candidates: list[Candidate] = []
        self._spans: list[TokenRange] = []
        for candidate in ballot.candidates():
            self._add(candidate)
        self._hop()
        total = sum(c.share for c in self.candidates)
        self.candidates = [replace(c, share=c.share / total) for c in self.candidates]
        found = zip(self.candidates, self._spans, strict=True)
        self.passages = [recalled(self._text, candidate, span, self._ballot.text) for candidate, span in found]

    @property
    def _text(self) -> Transcript:
        return self._ballot.session.transcript

    def _add(self, candidate: Candidate) -> None:
        if all(not span.first <= candidate.token < span.end for span in self._spans):
            self.candidates.append(candidate)
            self._spans.append(_span(self._ballot, candidate))

    def _hop(self) -> None:
        """Where one passage stands out alone, put what it leads to behind it."""
        if [c.near for c in self.candidates].count(True) != 1 or not self._ballot.stands_out():
            return
        best, *others = self.candidates
        sentence = recalled(self._text, best, self._spans[0], self._ballot.text).sentence
        if (hop := next_hop(self._ballot, sentence, self._spans[0])) is not None:
            block, token, share = hop
            led = Candidate(block, token, share * best.share, "words", share * best.strength, hop=True)
            self.candidates, self._spans = [best], self._spans[:1]
            for candidate in (led, *others):
                self._add(candidate)

    def chosen(self, most: int) -> list[int]:
        """Which candidates are read again: the best, and those nearly as good, at most so many."""
        near = [n for n, candidate in enumerate(self.candidates) if candidate.near]
        strong = [n for n in near if self.candidates[n].strength >= STRONG * self.candidates[0].strength]
        return [*near[:PASSAGES], *(n for n in near[PASSAGES:] if n in strong)][:most]

    def shown(self, chosen: Sequence[int]) -> list[Recalled]:
        """The passages of these candidates as they are read."""
        found = in_order([self.candidates[n] for n in chosen], [self._spans[n] for n in chosen])
        return [recalled(self._text, candidate, span, self._ballot.text) for candidate, span in found]

    def recall(self, way: Way, shown: Sequence[Recalled], blocks: Sequence[int], begun: float) -> Recall:
        """What came back, and what of it is shown."""
        seconds = time.perf_counter() - begun
        passages = tuple(self.passages)
        stands_out = self._ballot.stands_out()
        among = self._ballot.among
        return Recall(passages, stands_out, way, tuple(shown), tuple(blocks), seconds, among)


def in_order(candidates: Sequence[Candidate], spans: list[TokenRange]) -> list[tuple[Candidate, TokenRange]]:
    """Passages, best first in `candidates`, in their order in the stream; what the best one leads to is the last.

    So of two statements that differ the later one is read last.
    """
    found = [(c, span) for c, span in zip(candidates, merged(spans), strict=True) if span.first < span.end]
    return sorted(found, key=lambda f: (f[0].hop, f[1].first))


def merged(spans: list[TokenRange]) -> list[TokenRange]:
    """The spans, each without what an earlier one holds already; empty where nothing is left."""
    kept: list[TokenRange] = []
    for span in spans:
        first, end = span
        for other in kept:
            if other.first <= first < other.end:
                first = min(end, other.end)
            elif other.first < end <= other.end:
                end = other.first
        kept.append(TokenRange(first, max(first, end)))
    return kept


def _span(ballot: Ballot, candidate: Candidate) -> TokenRange:
    if candidate.said is not None:
        # It was compared alone, and what stands around it distracts: with a 0.5B model 11 of 24 such questions were
        # right with the sentence alone, 6 with 24 tokens on either side.
        return ballot.trimmed(*candidate.said, candidate)
    # Of a model for short texts, passages take half of what it was trained on at most.
    around = min(AROUND_TOKENS, trained_length(ballot.session) // (4 * MOST_PASSAGES))
    return ballot.trimmed(candidate.token - around, candidate.token + around, candidate)


def trained_length(session: WritingStream) -> int:
    """How many tokens the session's model was trained on."""
    return getattr(session.model.config.get_text_config(), "max_position_embeddings", None) or 2048
