"""Votes of words and of heads, against slow versions in the order of their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everlong.ops import recall
from everlong.ops.native import extension
from tests.reference import slow_rarity


def slow_bm25(ids, starts, question):
    """Equation 3.15 of Robertson and Zaragoza, with every run of one to three ids as a word, block by block."""
    words = {tuple(question[n : n + size]) for size in (1, 2, 3) for n in range(len(question) - size + 1)}
    blocks = len(starts) - 1
    lengths = [starts[b + 1] - starts[b] for b in range(blocks)]
    mean = sum(lengths) / blocks
    total = np.zeros(blocks)
    for word in words:
        begins = [n for n in range(len(ids) - len(word) + 1) if tuple(ids[n : n + len(word)]) == word]
        counts = [sum(starts[b] <= n < starts[b + 1] for n in begins) for b in range(blocks)]
        holding = sum(count > 0 for count in counts)
        idf = math.log(1 + (blocks - holding + 0.5) / (holding + 0.5))
        for b, count in enumerate(counts):
            norm = recall.BM25_K1 * (1 - recall.BM25_B + recall.BM25_B * lengths[b] / mean)
            total[b] += idf * count * (recall.BM25_K1 + 1) / (count + norm)
    return total


@pytest.mark.parametrize("sizes", [[7] * 9, [5, 1, 12, 3, 8], [4]])
def test_words_and_their_rarity_equal_the_slow_formulas(sizes):
    rng = np.random.default_rng(3)
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    ids = rng.integers(0, 6, starts[-1]).astype(np.int64)
    question = rng.integers(0, 7, 9).tolist()
    found = recall.WordVotes(ids, starts, question)
    assert np.allclose(found.rarity, slow_rarity(ids.tolist(), starts.tolist(), question), atol=1e-6)
    assert np.allclose(found.scores, slow_bm25(ids.tolist(), starts.tolist(), question), atol=1e-12)
    assert found.scores.max() <= found.possible + 1e-12


def test_a_name_is_rarer_than_the_words_of_its_form():
    form, names = [1, 2, 3], [11, 12, 13, 14, 15, 16]
    ids = np.array([token for name in names for token in [*form, name]])
    rarity = recall.WordVotes(ids, np.arange(0, 25, 4), [*form, 13]).rarity
    assert rarity[3] > 4 * rarity[:3].max()
    assert recall.WordVotes(ids, np.arange(0, 25, 4), [*form, 99]).rarity[3] == 1


def test_among_some_blocks_words_weigh_what_they_weigh_there():
    rng = np.random.default_rng(4)
    starts = np.concatenate(([0], np.cumsum([7, 5, 9, 12, 4, 7, 7]))).astype(np.int64)
    ids = rng.integers(0, 6, starts[-1]).astype(np.int64)
    question = [1, 2, 3, 1]
    found = recall.WordVotes(ids, starts, question)
    chosen = [5, 0, 3]
    # The slow formula over a text of these blocks alone, but for the mean length of a block.
    wanted = np.zeros(3)
    for word in {tuple(question[n : n + size]) for size in (1, 2, 3) for n in range(len(question) - size + 1)}:
        begins = [n for n in range(len(ids) - len(word) + 1) if tuple(ids[n : n + len(word)]) == word]
        counts = [sum(starts[b] <= n < starts[b + 1] for n in begins) for b in chosen]
        holding = sum(count > 0 for count in counts)
        idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        for n, b in enumerate(chosen):
            length = (starts[b + 1] - starts[b]) / (starts[-1] / (len(starts) - 1))
            norm = recall.BM25_K1 * (1 - recall.BM25_B + recall.BM25_B * length)
            wanted[n] += idf * counts[n] * (recall.BM25_K1 + 1) / (counts[n] + norm)
    assert np.allclose(found.among(chosen), wanted, atol=1e-12)


def test_words_peak_where_the_question_stands():
    ids = np.zeros(300, np.int64)
    ids[210:213] = [5, 6, 7]
    found = recall.WordVotes(ids, np.array([0, 100, 200, 300]), [5, 6, 7])
    assert found.scores.argmax() == 2
    assert abs(found.peak(2) - 11) <= 16
    assert abs(found.peak(2, reach=1) - 11) <= 1


def test_words_that_stand_nowhere_vote_for_nothing():
    found = recall.WordVotes(np.zeros(20, np.int64), np.array([0, 10, 20]), [5, 6])
    assert recall.best_first(found.scores) == []


def test_best_first_keeps_the_order_of_equals_and_leaves_zeros_out():
    assert recall.best_first(np.array([0.0, 2.0, 1.0, 2.0])) == [1, 3, 2]


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_head_votes_equal_a_softmax_over_all_tokens(softcap):
    N, L, D, T = 5, 6, 8, 3
    codes = torch.randint(0, 256, (N, L, D), dtype=torch.uint8)
    scale, low = torch.rand(N, D).half() * 0.01, -torch.rand(N, D).half()
    q = torch.randn(T, D)
    lengths = [6, 6, 2, 6, 1]
    keys = codes.double() * scale.double()[:, None] + low.double()[:, None]
    scores = torch.einsum("td,nld->tnl", q.double(), keys)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    for n, length in enumerate(lengths):
        scores[:, n, length:] = -torch.inf
    weights = torch.rand(T)
    wanted = (scores.flatten(1).softmax(1).view(T, N, L).sum(2) * weights[:, None].double()).amax(0)
    mass = recall.block_mass(recall.logits(q, codes, scale, low, softcap), lengths)[:, None]
    found = recall.head_votes(mass, mass.logsumexp(0), weights)[:, 0].double()
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.fixture(params=["torch", "best", *((extension() and extension().levels()) or [])])
def instructions(request, monkeypatch):
    """torch, the extension, and each set of instructions that it has."""
    native = extension()
    if request.param == "torch":
        monkeypatch.setattr(recall, "extension", lambda: None)
        yield
        return
    if native is None:
        pytest.skip("no C extension here")
    before = native.level()
    if request.param != "best":
        native.set_level(request.param)
    yield
    native.set_level(before)


@pytest.mark.parametrize(("N", "L", "D", "Q"), [(3, 128, 64, 20), (2, 100, 20, 7), (1, 1, 4, 1), (5, 63, 96, 9)])
def test_masses_equal_their_formula(instructions, N, L, D, Q):
    rows = torch.randint(0, 256, (N, 3 + (L + 4) * D), dtype=torch.uint8)
    codes = rows[:, 3 : 3 + L * D].unflatten(1, (L, D))
    scale, low = torch.rand(N, D).half() * 0.02, -2 * torch.rand(N, D).half()
    q = torch.randn(Q, D)
    lengths = torch.randint(0, L + 1, (N,)).tolist()
    keys = codes.double() * scale.double()[:, None] + low.double()[:, None]
    scores = torch.einsum("qd,nld->nql", q.double(), keys)
    whole = recall.masses(q, codes, scale, low).double()
    assert torch.allclose(whole, scores.logsumexp(2), atol=1e-4, rtol=1e-5)
    for n, length in enumerate(lengths):
        scores[n, :, length:] = -torch.inf
    found = recall.masses(q, codes, scale, low, lengths=lengths).double()
    assert torch.allclose(found, scores.logsumexp(2), atol=1e-4, rtol=1e-5)


def test_masses_take_keys_that_the_extension_does_not(instructions):
    rows = torch.randint(0, 256, (2, 5, 6), dtype=torch.uint8)
    scale, low = torch.rand(2, 6).half() * 0.02, -torch.rand(2, 6).half()
    q = torch.randn(3, 6)
    for softcap, codes in ((None, rows), (2.0, rows), (None, rows.transpose(0, 1).contiguous().transpose(0, 1))):
        wanted = recall.block_mass(recall.logits(q, codes, scale, low, softcap))
        assert torch.allclose(recall.masses(q, codes, scale, low, softcap), wanted, atol=1e-6)


def test_rare_words_are_covered_by_their_weight():
    ids = np.zeros(1000, np.int64)
    ids[[410, 420]] = [5, 6]
    ids[910] = 6
    starts = np.arange(0, 1001, 100)
    found = recall.WordVotes(ids, starts, [0, 5, 6, 7])
    weights = {5: math.log(1 + 9.5 / 1.5), 6: math.log(1 + 8.5 / 2.5), 7: math.log(1 + 10.5 / 0.5)}
    # 6 stands in two blocks of ten: too many to be rare.
    assert found.rare_cover(4) == pytest.approx(weights[5] / (weights[5] + weights[7]))
    assert found.rare_cover(9) == 0
    assert recall.WordVotes(ids, starts, [0]).rare_cover(0) == 1
