"""The vote of the retrieval heads: how much of their attention to all stored tokens goes to each block.

N blocks, L tokens per block at most, T question tokens, D head dim, Q = T times the heads of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from everlong.methods.blocks.recall.index import KeyPair, RecallIndex
from everlong.methods.blocks.recall.scout import Queries
from everlong.ops.recall import head_votes, logits, masses

Lengths = Callable[[int, int], list[int]]
"""The tokens of each of the blocks `first` .. `end` - 1."""


class HeadVotes:
    """vote_b = sum over heads of max_t w_t * sum over j in b of softmax_j(q_t . k_j), over sinks and all stored blocks.

    `weights` are the w_t [T] (ops/recall.py).

    `sinks` gives the raw keys [G, n, D] of the sinks in a layer: a head that finds nothing looks there, and then has
    no vote to give. `lengths` is needed where blocks are not all of the index's length. `dropped` blocks get no vote,
    and their tokens take no part in the softmax.
    """

    def __init__(
        self,
        index: RecallIndex,
        queries: dict[int, Queries],
        sinks: Callable[[int], Tensor],
        weights: NDArray[np.float32],
        dropped: Collection[int] = (),
        lengths: Lengths | None = None,
    ) -> None:
        self._weights = torch.from_numpy(weights)
        self._index = index
        self._queries = queries
        self._lengths = lengths
        self._dropped = [n for n in dropped if n < index.blocks]
        found = [torch.cat(parts) for parts in zip(*self._masses(), strict=True)]
        self._totals: list[Tensor] = []
        self.by_head: list[NDArray[np.float32]] = []
        """The vote of each head, [N] float32."""
        for pair, mass in zip(index.pairs, found, strict=True):
            mass[self._dropped] = -torch.inf
            by_head = mass.unflatten(1, (len(pair.heads), -1))
            asked = queries[pair.layer]
            elsewhere = _sink_mass(sinks(pair.layer)[pair.kv_head], asked, pair.heads)
            self._totals.append(torch.logaddexp(by_head.logsumexp(0), elsewhere))
            self.by_head += list(head_votes(by_head, self._totals[-1], self._weights).T.numpy())
        self.votes: NDArray[np.float32] = np.stack(self.by_head).sum(0)

    def _masses(self) -> Iterator[list[Float[Tensor, "n Q"]]]:
        """For some rows at a time the log mass of each block, pair by pair."""
        for first, rows in self._index.chunks():
            lengths = None if self._lengths is None else self._lengths(first, first + len(rows))
            yield [masses(q, *keys, cap, lengths) for _, q, keys, cap in self._asked(rows)]

    def _asked(self, rows: Tensor) -> Iterator[tuple[KeyPair, Tensor, tuple[Tensor, Tensor, Tensor], float | None]]:
        """Pair by pair the scaled queries [Q, D], the keys of these rows as `RecallIndex.keys` has them, the cap."""
        for pair, *keys in self._index.keys(rows):
            asked = self._queries[pair.layer]
            q = (asked.q[list(pair.heads)] * asked.scale).flatten(0, 1)
            codes, scale, low = keys
            yield pair, q, (codes, scale, low), asked.softcap

    def _scores(self, rows: Tensor) -> Iterator[tuple[KeyPair, Float[Tensor, "n Q L"]]]:
        for pair, q, keys, softcap in self._asked(rows):
            yield pair, logits(q, *keys, softcap)

    def peak(self, block: int) -> int:
        """The token of a block (counted from its first) that gets most of the vote."""
        rows = self._index.rows(block, block + 1)
        total = torch.zeros(self._index.tokens)
        for (pair, scores), totals in zip(self._scores(rows), self._totals, strict=True):
            share = (scores[0].unflatten(0, (len(pair.heads), -1)) - totals[..., None]).exp() * self._weights[:, None]
            best = share.sum(2).argmax(1)
            total += share[torch.arange(len(pair.heads)), best].sum(0)
        end = self._index.tokens if self._lengths is None else self._lengths(block, block + 1)[0]
        return int(total[:end].argmax())


def _sink_mass(k_SD: Float[Tensor, "S D"], asked: Queries, heads: Sequence[int]) -> Float[Tensor, "h T"]:
    """The logarithm of the sum of exp(score) over the sinks; -inf without any."""
    scores = asked.q[list(heads)] @ k_SD.float().cpu().T * asked.scale
    scores = scores if asked.softcap is None else asked.softcap * torch.tanh(scores / asked.softcap)
    return scores.logsumexp(2)
