"""Votes for stored blocks: the attention mass that a few heads give to each, and the words that it shares.

Heads: vote_b = sum over heads of max over t of w_t * sum over j in b of softmax_j(q_t . k_j / sqrt(D)), over all stored
tokens j (QRHead, arXiv 2506.09944; the weights w_t are ours). Words: BM25 (Robertson and Zaragoza 2009, equation 3.15)
over ids, single, in pairs and in threes.

w_t (0 to 1) says how rare token t of the question is in what is stored, with the tokens before it. Retrieval heads look
for what is like each token, so that words which every passage of one form shares ("the code of the ... is") all vote
for the same passage, the first of its form, whatever is asked; the name that only one passage has must count for more.

N blocks, L tokens per block at most, D head dim, T question tokens, h heads that share the keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from numpy.typing import NDArray
from torch import Tensor

from everlong.ops.native import extension
from everlong.ops.spans import Ints

REACH = 16
"""Tokens on either side of a place whose words count for it."""
KEY_MULTIPLE = 4
"""The extension takes keys of a multiple of so many numbers (native/masses.h)."""
BM25_K1 = 1.2
BM25_B = 0.75
TINY = 1e-12
RARE = 8
"""A word is rare that stands in at most one block of so many."""
LONGEST_GRAM = 3
"""Ids in a row that count as one word at most."""
RUN_WEIGHT = 0.5
"""A question token in a rare run counts so much of what a rare token does.

In "the Prague archive" the query of "archive" still looks for archives. With 1 in place of 0.5 the retrieval heads of a
0.5B model put the right one of eight such codes first in 4 of 16 questions, with 0.5 in 16 (docs/log.md).
"""


def logits(
    q_QD: Float[Tensor, "Q D"],
    codes_NLD: UInt8[Tensor, "N L D"],
    scale_ND: Float16[Tensor, "N D"],
    low_ND: Float16[Tensor, "N D"],
    softcap: float | None = None,
) -> Float[Tensor, "N Q L"]:
    """Scores in float32 of scaled queries against keys `codes * scale + low`, quantised per block and channel.

    The scale goes into the queries, so that no key is made in float.
    """
    q_QD = q_QD.float()
    scaled_NQD = q_QD[None] * scale_ND.float()[:, None]
    offset_NQ = low_ND.float() @ q_QD.T
    found = torch.bmm(scaled_NQD, codes_NLD.float().transpose(1, 2)).add_(offset_NQ[..., None])
    return found if softcap is None else softcap * torch.tanh(found / softcap)


def block_mass(scores_NQL: Float[Tensor, "N Q L"], lengths: Sequence[int] | None = None) -> Float[Tensor, "N Q"]:
    """The logarithm of the sum of exp(score) over each block; `lengths` says how many of its L tokens it has."""
    if lengths is not None:
        place = torch.arange(scores_NQL.shape[2])
        scores_NQL = scores_NQL.masked_fill((place >= torch.tensor(lengths)[:, None])[:, None], -torch.inf)
    return scores_NQL.logsumexp(2)


def masses(
    q_QD: Float[Tensor, "Q D"],
    codes_NLD: UInt8[Tensor, "N L D"],
    scale_ND: Float16[Tensor, "N D"],
    low_ND: Float16[Tensor, "N D"],
    softcap: float | None = None,
    lengths: Sequence[int] | None = None,
) -> Float[Tensor, "N Q"]:
    """`block_mass` of `logits`, in one pass of the C extension where that takes such keys.

    >>> codes, ones = torch.ones(1, 3, 4, dtype=torch.uint8), torch.ones(1, 4).half()
    >>> round(masses(torch.ones(1, 4), codes, ones, ones).item(), 3) == round(8 + math.log(3), 3)
    True
    """
    native = extension()
    if native is None or not _suits(codes_NLD, scale_ND, low_ND, softcap):
        return block_mass(logits(q_QD, codes_NLD, scale_ND, low_ND, softcap), lengths)
    N, L, D = codes_NLD.shape
    q_QD = q_QD.float().contiguous()
    held = None if lengths is None else torch.tensor(lengths, dtype=torch.int64)
    out_NQ = torch.empty(N, len(q_QD))
    native.masses(
        *(out_NQ.data_ptr(), q_QD.data_ptr(), codes_NLD.data_ptr(), scale_ND.data_ptr(), low_ND.data_ptr()),
        *(0 if held is None else held.data_ptr(), N, L, len(q_QD), D),
        *(codes_NLD.stride(0), 2 * scale_ND.stride(0), torch.get_num_threads()),
    )
    return out_NQ


def _suits(codes: Tensor, scale: Tensor, low: Tensor, softcap: float | None) -> bool:
    """Whether the extension takes these: no cap on scores, the keys of a block side by side, on a CPU."""
    _, L, D = codes.shape
    side_by_side = codes.stride()[1:] == (D, 1) and scale.stride(1) == low.stride(1) == 1
    return softcap is None and D % KEY_MULTIPLE == 0 and L > 0 and side_by_side and codes.device.type == "cpu"


def head_votes(
    mass_NhT: Float[Tensor, "N h T"], total_hT: Float[Tensor, "h T"], weights_T: Float[Tensor, " T"]
) -> Float[Tensor, "N h"]:
    """For each head the largest share of a question token's attention that a block gets, times the token's weight.

    `mass_NhT` as `block_mass` gives it, `total_hT` the logarithm of all that the softmax sums over.
    """
    return ((mass_NhT - total_hT).exp() * weights_T).amax(2)


def _idf(holding: int, blocks: int) -> float:
    """The weight of a word that stands in `holding` of so many blocks (equation 3.15's inverse document frequency)."""
    return math.log(1 + (blocks - holding + 0.5) / (holding + 0.5)) if blocks else 0.0


def grams(ids: Sequence[int]) -> list[tuple[int, ...]]:
    """The different runs of one to three ids of a question, in order."""
    found = dict.fromkeys(
        tuple(ids[n : n + size]) for size in range(1, LONGEST_GRAM + 1) for n in range(len(ids) - size + 1)
    )
    return list(found)


def places(ids: Ints, gram: tuple[int, ...], first: Ints) -> Ints:
    """Where `gram` begins in `ids`; `first` are the places of its first id."""
    here = first[first <= len(ids) - len(gram)]
    for n, one in enumerate(gram[1:], 1):
        here = here[ids[here + n] == one]
    return here


class WordVotes:
    """BM25 of every block for one question. `ids` [n] begin at the first token of block 0; `starts` [N + 1].

    An id below 0 in the question stands nowhere, and no run goes over it.

    Nothing is kept beside the ids: each different id of the question costs one comparison with all of them.
    """

    def __init__(self, ids: Ints, starts: Ints, question: Sequence[int]) -> None:
        self._ids, self._starts = ids[: starts[-1] - starts[0]], starts - starts[0]
        blocks = len(starts) - 1
        lengths = np.diff(starts).astype(np.float64)
        self._norm = BM25_K1 * (1 - BM25_B + BM25_B * lengths / max(1.0, lengths.mean() if blocks else 1.0))
        self.scores: NDArray[np.float64] = np.zeros(blocks)
        self.possible = 0.0
        """The sum of the weights of all that the question holds: what a block with every word of it would have."""
        self._question = list(question)
        self._weights: dict[tuple[int, ...], float] = {}
        self._found: list[tuple[Ints, float, int]] = []
        self._rare: list[tuple[Ints, float]] = []
        first = {one: np.flatnonzero(self._ids == one) for one in set(question)}
        for gram in grams(question):
            at = places(self._ids, gram, first[gram[0]])
            counts = np.bincount(np.searchsorted(self._starts, at, "right") - 1, minlength=blocks)[:blocks]
            holding = int(np.count_nonzero(counts))
            weight = _idf(holding, blocks)
            self.possible += weight * (BM25_K1 + 1)
            if len(gram) == 1 and RARE * holding <= blocks:
                self._rare.append((at, weight))
            if holding or len(gram) == 1:
                self._weights[gram] = weight
            if holding:
                self.scores += weight * counts * (BM25_K1 + 1) / (counts + self._norm)
                self._found.append((at, weight, len(gram)))

    @property
    def rarity(self) -> NDArray[np.float32]:
        """How rare each token of the question is [T], 0 to 1 (1: in no block).

        Its inverse document frequency, or RUN_WEIGHT times that of the rarest run in the text that ends with it.
        """
        blocks = len(self._starts) - 1
        most = math.log(1 + (blocks + 0.5) / 0.5)
        found = np.ones(len(self._question), np.float32)
        for n, token in enumerate(self._question):
            runs = [tuple(self._question[max(0, n + 1 - size) : n + 1]) for size in range(2, LONGEST_GRAM + 1)]
            rarest = max(self._weights.get(run, 0.0) for run in runs)
            found[n] = max(self._weights[(token,)], RUN_WEIGHT * rarest) / most
        return found

    def rare_cover(self, block: int) -> float:
        """How much of the question's rare words, by weight, a block holds (0 to 1); 1 where none is rare."""
        first = int(self._starts[block])
        end = int(self._starts[block + 1])
        total = sum(weight for _, weight in self._rare)
        held = sum(weight for at, weight in self._rare if ((at >= first) & (at < end)).any())
        return held / total if total else 1.0

    def among(self, blocks: Sequence[int]) -> NDArray[np.float64]:
        """BM25 of these blocks with the weights that words have among them alone [len(blocks)].

        What all of them hold, such as the words of a form, weighs next to nothing here, however rare it is elsewhere.
        """
        found = np.zeros(len(blocks))
        norm = self._norm[list(blocks)]
        for at, _, _ in self._found:
            counts = np.bincount(np.searchsorted(self._starts, at, "right") - 1, minlength=len(self.scores))
            here = counts[list(blocks)]
            weight = _idf(int(np.count_nonzero(here)), len(blocks))
            found += weight * here * (BM25_K1 + 1) / (here + norm)
        return found

    def shares(self) -> NDArray[np.float64]:
        """How much each block holds of the runs that stand somewhere, by weight [N]; 0 without a run of two ids."""
        blocks = len(self._starts) - 1
        held = np.zeros(blocks)
        runs = np.zeros(blocks, bool)
        for at, weight, size in self._found:
            here = np.unique(np.searchsorted(self._starts, at, "right") - 1)
            held[here] += weight
            runs[here] |= size > 1
        return np.where(runs, held, 0.0) / max(sum(weight for _, weight, _ in self._found), TINY)

    def peak(self, block: int, reach: int = REACH) -> int:
        """The token of a block (counted from its first) with most of the question's words `reach` tokens around it."""
        first = int(self._starts[block])
        end = int(self._starts[block + 1])
        weights = np.zeros(end - first)
        for at, weight, size in self._found:
            here = at[(at >= first) & (at < end)] - first
            weights[np.minimum(here + size // 2, end - first - 1)] += weight
        return int(_smooth(weights, reach).argmax())


def _smooth(weights: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """For each token the sum over the `reach` tokens on either side of it."""
    upto = np.concatenate(([0.0], weights.cumsum()))
    place = np.arange(len(weights))
    return upto[np.minimum(place + reach + 1, len(weights))] - upto[np.maximum(place - reach, 0)]


def best_first(votes: NDArray[Any]) -> list[int]:
    """Numbers of the votes above zero, the largest first, the earlier of equals first."""
    order = np.argsort(-votes, kind="stable")
    return order[votes[order] > 0].tolist()
