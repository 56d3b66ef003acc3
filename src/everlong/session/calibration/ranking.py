"""Which heads find, from where they looked; and how often the vote of the best finds.

Q questions, L layers, H query heads, N blocks
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FOUND = 0.01
"""The mean margin that a kind's best head must have, so that it is not chance."""


def margins(masses_QLHN: Tensor, golds: Sequence[Sequence[int]]) -> Tensor:
    """The mass [Q, L, H] on the fact's block, less the largest on any other.

    `golds`: the blocks of each question's fact; of a fact that a border cuts, the better half counts.
    """
    rows = []
    for masses_LHN, gold in zip(masses_QLHN, golds, strict=True):
        others = masses_LHN.clone()
        others[..., list(gold)] = 0
        rows.append(masses_LHN[..., list(gold)].amax(-1) - others.amax(-1))
    return torch.stack(rows)


def scores(margins_QLH: Tensor, kinds: Sequence[str]) -> Tensor:
    """A score [L, H] of -1 to 1: the mean margin of each kind over that of its best head, then the mean over kinds.

    So no kind decides because its facts draw more attention than others. A kind that no head finds has no say; where
    none is found the scores are the mean margins.
    """
    found = []
    for kind in sorted(set(kinds)):
        mean_LH = margins_QLH[[n for n, one in enumerate(kinds) if one == kind]].mean(0)
        best = float(mean_LH.max())
        if best > _FOUND:
            found.append((mean_LH / best).clamp_min(-1))
    return torch.stack(found).mean(0) if found else margins_QLH.mean(0)


def vote(masses_QLHN: Tensor, heads: Sequence[tuple[int, int]]) -> Tensor:
    """The vote [Q, N] of some heads on every block: the sum of their masses."""
    return sum((masses_QLHN[:, layer, head] for layer, head in heads), torch.zeros(()))


def recall(votes_QN: Tensor, golds: Sequence[Sequence[int]], first: int) -> float:
    """In how many questions, 0 to 1, the fact's block is among the `first` of the vote."""
    order = votes_QN.argsort(dim=-1, descending=True)[:, :first].tolist()
    return sum(bool(set(row) & set(gold)) for row, gold in zip(order, golds, strict=True)) / len(order)
