"""The index of a layer's blocks: what a query is compared with to choose some of them.

Letters: N blocks, L tokens per block, H query heads, G kv heads, D head dim, C choices (1, or G if per head).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from everlong.methods.blocks.fields import BlockSettings
from everlong.models.ranks import Ranks
from everlong.ops.spans import Ints
from everlong.storage.growable_rows import GrowableRows

FIRST_SLAB = 32
LARGEST_SLAB = 1024


class Index:
    """Digests of blocks 0 .. N - 1, in bfloat16 (float32 in streams from before); scores are computed in float32.

    mean (InfLLM, arXiv 2402.04617, section 3.2): for each query head the mean of the raw keys of the `repr_topk` tokens
    with the largest mass; a block's score is the sum over heads of q . digest. bounds (Quest, arXiv 2406.10774, section
    3.3): the largest and the smallest value of each channel of the raw keys, rounded outwards; the score bounds that of
    any token. Of heads that are shared out to `ranks` each rank keeps its own digests, and scores are summed.
    """

    def __init__(
        self,
        settings: BlockSettings,
        heads: int,
        kv_heads: int,
        dim: int,
        dtype: torch.dtype = torch.bfloat16,
        ranks: Ranks | None = None,
    ) -> None:
        self.settings = settings
        self.heads = heads
        self.kv_heads = kv_heads
        self.dim = dim
        self.ranks = ranks
        self.bounds = settings.digest == "bounds"
        self.groups = kv_heads if settings.per_head else 1
        self.digests = GrowableRows(2 * kv_heads * dim if self.bounds else heads * dim, dtype, FIRST_SLAB, LARGEST_SLAB)

    def put(self, first: int, k_NGLD: Float[Tensor, "N G L D"], mass_NHL: Float[Tensor, "N H L"]) -> None:
        """Set the digests of the blocks from `first` on; blocks come in order."""
        k = k_NGLD.float()
        if self.bounds:
            # The smallest value is the negative of the largest of the negatives: both are rounded up.
            highest, lowest = (rounded_up(x, self.digests.dtype) for x in (k.amax(2), -k.amin(2)))
            digests = torch.stack((highest, -lowest), 2)
        else:
            best = mass_NHL.topk(min(self.settings.repr_topk, k.shape[2]), 2).indices
            fold = self.heads // self.kv_heads
            taken = best.view(len(k), self.kv_heads, fold, -1, 1).expand(-1, -1, -1, -1, self.dim)
            digests = k[:, :, None].expand(-1, -1, fold, -1, -1).gather(3, taken).mean(3)
        for block, digest in enumerate(digests.reshape(len(k), -1).to(self.digests.dtype).cpu(), first):
            self.digests.room(block).copy_(digest)

    def scores(self, q_HD: Float[Tensor, "H D"], blocks: int) -> Float[Tensor, "C N"]:
        """Relevance of the first `blocks` blocks to a query at the memory's distance; -inf for those that are gone."""
        q = q_HD.float().view(self.kv_heads, -1, self.dim).cpu()
        weights = torch.stack((q.clamp_min(0).sum(1), q.clamp_max(0).sum(1)), 1) if self.bounds else q
        weights = weights.reshape(self.groups, -1)
        rows = (slab.view(len(slab), self.groups, -1) for slab in self._wide(self.digests.rows(blocks)))
        found = torch.cat([torch.einsum("ncd,cd->cn", slab, weights) for slab in rows], 1)
        found = found if self.ranks is None else self.ranks.sum(found)
        if not len(self.digests.gone):
            return found
        every = found.new_full((self.groups, blocks), -torch.inf)
        every[:, torch.from_numpy(self.digests.numbers(blocks))] = found
        return every

    def _wide(self, slabs: list[Tensor]) -> Iterator[Tensor]:
        """These slabs in float32; each is good until the next."""
        if self.digests.dtype == torch.float32:
            yield from slabs
            return
        # All slabs go through one buffer, which stays in the processor's cache: new memory is far slower to fill.
        buffer = torch.empty(max(map(len, slabs), default=0), self.digests.columns)
        for slab in slabs:
            yield buffer[: len(slab)].copy_(slab)

    def choose(
        self,
        q_HD: Float[Tensor, "H D"] | None,
        blocks: int,
        dropped: Collection[int] = (),
        pinned: Collection[int] = (),
    ) -> Ints:
        """Numbers of the chosen blocks [C, n], ascending; all but the `dropped` while these are at most `top_k`.

        The `pinned` among them are chosen in any case.
        """
        most = self.settings.top_k
        gone = [n for n in dropped if n < blocks]
        if blocks - len(gone) <= most or q_HD is None:
            kept = np.setdiff1d(np.arange(blocks, dtype=np.int64), gone)
            return np.broadcast_to(kept, (self.groups, len(kept)))
        scores = self.scores(q_HD, blocks)
        always = sorted(n for n in pinned if n < blocks)
        scores[:, always], scores[:, gone] = torch.inf, -torch.inf
        ranked = scores.topk(most, 1).indices.numpy()
        if self.settings.neighbours:
            reach = self.settings.neighbours
            ranked = np.stack([_with_neighbours(row, reach, most, blocks, set(gone), always) for row in ranked])
        return np.sort(ranked, 1)

    def fork(self) -> Index:
        """An index with the same digests, sharing their memory."""
        other = Index(self.settings, self.heads, self.kv_heads, self.dim, self.digests.dtype, self.ranks)
        other.digests = self.digests.fork()
        return other


def rounded_up(values: Float[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """The smallest numbers of `dtype` that are not below the values.

    >>> rounded_up(torch.tensor([1.0, 1.001, -1.001]), torch.bfloat16).tolist()
    [1.0, 1.0078125, -1.0]
    """
    found = values.to(dtype)
    above = torch.nextafter(found, torch.full_like(found, torch.inf))
    return torch.where(found.float() < values, above, found)


def _with_neighbours(ranked: Ints, reach: int, most: int, blocks: int, gone: set[int], always: list[int]) -> Ints:
    """The best blocks, each with its `reach` neighbours on both sides, until there are `most` (EM-LLM's contiguity).

    Those of `always` are taken first, without their neighbours.
    """
    taken = list(always)
    for best in ranked if len(taken) < most else ():
        near = sorted(range(max(0, best - reach), min(blocks, best + reach + 1)), key=lambda n: abs(n - best))
        taken += [n for n in near if n not in taken and n not in gone][: most - len(taken)]
        if len(taken) == most:
            break
    return np.array(taken, dtype=np.int64)
