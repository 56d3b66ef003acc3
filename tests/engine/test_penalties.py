"""Penalties, biases and log-probabilities: those of a slow computation from the logits."""

from __future__ import annotations

import pytest
import torch

from everlong import Dense, Session
from everlong.engine.sampling import Sampling
from everlong.errors import ConfigError


def test_penalties_and_biases_are_taken_from_the_logits():
    logits = torch.tensor([1.0, 2.0, 3.0, 2.9])
    recent = torch.empty(0, dtype=torch.int64)
    assert Sampling(presence_penalty=0.2).pick(logits, recent, written=[2]) == 3
    assert Sampling(frequency_penalty=0.06).pick(logits, recent, written=[2]) == 2
    assert Sampling(frequency_penalty=0.06).pick(logits, recent, written=[2, 2]) == 3
    assert Sampling(presence_penalty=-0.2).pick(logits, recent, written=[3]) == 3
    assert Sampling(logit_bias={0: 5.0}).pick(logits, recent) == 0
    assert logits.tolist() == pytest.approx([1.0, 2.0, 3.0, 2.9])


def test_the_odds_of_each_token_are_those_of_its_logits(tiny):
    with Session(tiny, Dense()) as session:
        result = session.generate("The tide rose", max_new_tokens=7, logprobs=3)
    assert [odds.token for odds in result.odds] == result.token_ids
    with Session(tiny, Dense()) as session:
        session.feed("The tide rose")
        for odds in result.odds:
            expected = session.prediction.log_softmax(-1)
            best = expected.topk(3)
            assert odds.logprob == pytest.approx(float(expected[odds.token]), abs=1e-4)
            assert [token for token, _ in odds.likeliest] == best.indices.tolist()
            session.feed([odds.token], answering=True)


def test_wrong_values_are_refused(tiny):
    for wrong in ({"logprobs": -1}, {"logprobs": "x"}, {"presence_penalty": float("nan")}, {"frequency_penalty": "x"}):
        with pytest.raises((ConfigError, TypeError, ValueError)):
            Sampling(**wrong)
    with Session(tiny, Dense()) as session, pytest.raises(ConfigError, match="logit_bias=400"):
        session.generate("The tide", logit_bias={400: 1.0})
