"""Digests in bfloat16: bounds stay bounds, means are rounded, and scores are those of what is kept."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks
from everlong.methods.blocks.index import Index, rounded_up

H, G, L, D, N = 6, 2, 16, 10, 40


def filled(fields, dtype=torch.bfloat16, seed=1):
    """An index of random blocks, and their keys [N, G, L, D]."""
    generator = torch.Generator().manual_seed(seed)
    index = Index(Blocks(block=L, **fields), H, G, D, dtype)
    keys = torch.randn(N, G, L, D, generator=generator)
    for n, k in enumerate(keys):
        index.put(n, k[None], torch.rand(1, H, L, generator=generator))
    return index, keys


@pytest.mark.parametrize("per_head", [False, True])
def test_a_rounded_bound_is_a_bound(per_head):
    index, keys = filled({"digest": "bounds", "per_head": per_head})
    q = torch.randn(H, D)
    exact = torch.einsum("gfd,ngld->ngfl", q.view(G, H // G, D), keys).amax(3).sum(2)
    wanted = exact.T if per_head else exact.sum(1)[None]
    scores = index.scores(q, N)
    assert bool((scores >= wanted - 1e-4).all())
    assert scores.dtype == torch.float32


@pytest.mark.parametrize("digest", ["mean", "bounds"])
def test_digests_differ_by_their_rounding_alone(digest):
    half, _ = filled({"digest": digest})
    whole, _ = filled({"digest": digest}, torch.float32)
    kept, exact = half.digests.joined(N), whole.digests.joined(N)
    assert kept.dtype == torch.bfloat16
    step = exact.abs() * 2**-8 * (2 if digest == "bounds" else 1)
    assert bool(((kept.float() - exact).abs() <= step + 1e-30).all())
    assert half.digests.nbytes * 2 == whole.digests.nbytes


def test_rounding_up_gives_the_next_number():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(2)) * 100
    up = rounded_up(values, torch.bfloat16)
    below = torch.nextafter(up, torch.full_like(up, -torch.inf))
    assert bool((up.float() >= values).all())
    assert bool((below.float() < values).all())
    assert torch.equal(rounded_up(values, torch.float32), values)


def test_forks_keep_the_dtype():
    index, _ = filled({"digest": "mean"}, torch.float32)
    assert index.fork().digests.dtype == torch.float32
