"""Recomputation: every prediction comes from a fresh forward over the last W tokens, and from nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from everlong import Recompute, Session
from everlong.engine import recompute
from everlong.errors import ConfigError

IDS = [(7 * i * i + 3 * i) % 97 for i in range(50)]
W = 12


def reference(model, ids) -> torch.Tensor:
    """The logits after each token, one forward for each."""
    rows = [model(torch.tensor([ids[max(0, t + 1 - W) : t + 1]])).logits[0, -1] for t in range(len(ids))]
    return torch.stack(rows).detach()


@pytest.mark.parametrize("chunk", [1, 5, 12, 512])
@pytest.mark.parametrize("cuts", [[0, 50], [0, 3, 11, 12, 13, 40, 50]])
def test_each_prediction_is_a_fresh_forward(tiny_llama, chunk, cuts):
    model = tiny_llama()
    expected = reference(model, IDS)
    with Session(model, Recompute(window=W), chunk=chunk) as session:
        found = [session.score(IDS[a:b], logits=True) for a, b in itertools.pairwise(cuts)]
    logprobs, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert torch.allclose(logits, expected, atol=1e-4)
    wanted = expected[:-1].log_softmax(-1).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
    assert logprobs[0].isnan()
    assert torch.allclose(logprobs[1:], wanted, atol=1e-4)


def test_feeding_keeps_the_ids_and_predicts_only_when_asked(tiny_llama):
    model, calls = tiny_llama(), []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    expected = reference(model, IDS)
    calls.clear()
    with Session(model, Recompute(window=W), chunk=8) as session:
        session.feed(IDS[:40])
        assert calls == []
        found = session.score(IDS[40:], logits=True)
        assert torch.allclose(found[1], expected[40:], atol=1e-4)
        assert not found[0].isnan().any()
    hook.remove()


def test_several_windows_share_a_forward(tiny_llama, monkeypatch):
    monkeypatch.setattr(recompute, "_BATCH_TOKENS", 3 * W)
    model, rows = tiny_llama(), []
    hook = model.register_forward_pre_hook(lambda m, a, k: rows.append(tuple(k["input_ids"].shape)), with_kwargs=True)
    with Session(model, Recompute(window=W), chunk=20) as session:
        session.score(IDS[:20])
    hook.remove()
    assert rows == [(1, W), (3, W), (3, W), (2, W)]


def test_only_the_window_is_held(tiny_llama):
    with Session(tiny_llama(), Recompute(window=W), chunk=8) as session:
        session.feed(IDS)
        found = session.report()
        assert (found.seen_tokens, found.window_tokens, found.dropped_tokens) == (50, W, 50 - W)
        assert found.bytes == {"device": 0, "host": 8 * W, "disk": 0}


def test_the_model_is_not_touched(tiny_llama):
    model = tiny_llama()
    stock = dict(model.model.__dict__)
    with Session(model, Recompute(window=W)):
        assert dict(model.model.__dict__) == stock


def test_a_window_past_the_trained_length_is_refused(tiny_llama):
    with pytest.raises(ConfigError, match="window=257: the model was trained on 256 tokens; use at most 256"):
        Session(tiny_llama(), Recompute(window=257))
