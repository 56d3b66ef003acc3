"""How a token is chosen: the settings' limits, and what each of them does to the distribution."""

from __future__ import annotations

import pytest
import torch

from everlong.engine.sampling import Sampling, nucleus, penalised
from everlong.errors import ConfigError, ModelError

NONE = torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("max_new_tokens", 0, "max_new_tokens=0: must be at least 1"),
        ("temperature", -0.5, "temperature=-0.5: must be 0"),
        ("temperature", float("nan"), "temperature=nan: must be 0"),
        ("temperature", float("inf"), "temperature=inf: must be 0"),
        ("top_p", 0.0, "top_p=0.0: must be above 0"),
        ("top_p", 1.5, "top_p=1.5: must be above 0 and at most 1"),
        ("top_k", -1, "top_k=-1: must be at least 0"),
        ("repetition_penalty", 0.0, "repetition_penalty=0.0: must be above 0"),
        ("stop", "", "each stop string needs a character"),
        ("stop", ["a", ""], "each stop string needs a character"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(setting, value, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        Sampling(**{"temperature": 1.0, setting: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("setting", "value"), [("top_p", 0.9), ("top_k", 5)])
def test_a_setting_without_effect_is_refused(setting, value):
    with pytest.raises(ConfigError, match="has no effect at temperature=0"):
        Sampling(**{setting: value})


def draws(sampling: Sampling, logits: torch.Tensor, recent=NONE, count: int = 2000) -> torch.Tensor:
    generator = sampling.generator(logits.device)
    found = [sampling.pick(logits, recent, generator) for _ in range(count)]
    return torch.bincount(torch.tensor(found), minlength=len(logits)) / count


def test_temperature_zero_takes_the_likeliest():
    assert Sampling().pick(torch.tensor([0.0, 3.0, 2.0]), NONE) == 1


def test_temperature_shapes_the_distribution():
    logits = torch.tensor([0.0, 1.0, 2.0])
    found = draws(Sampling(temperature=2.0, seed=1), logits)
    assert torch.allclose(found, (logits / 2).softmax(-1), atol=0.04)


def test_a_tiny_temperature_is_the_likeliest_and_finite():
    assert Sampling(temperature=1e-30, seed=0).pick(torch.tensor([1.0, 1.5, -4.0]), NONE) == 1


def test_top_k_and_top_p_leave_only_the_likeliest():
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    assert draws(Sampling(temperature=1.0, top_k=2, seed=0), logits).nonzero().flatten().tolist() == [1, 3]
    assert draws(Sampling(temperature=1.0, top_p=0.65, seed=0), logits).nonzero().flatten().tolist() == [1, 3]
    assert draws(Sampling(temperature=1.0, top_p=0.75, seed=0), logits).nonzero().flatten().tolist() == [1, 2, 3]
    assert draws(Sampling(temperature=1.0, top_p=0.01, seed=0), logits).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("flatness", [0.01, 0.5, 3.0, 20.0])
@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.9, 0.999])
def test_the_nucleus_is_that_of_a_full_sort(flatness, top_p):
    odds = (torch.randn(5000) * flatness).softmax(-1)
    kept, order = nucleus(odds, top_p)
    ranked, _ = odds.sort(descending=True)
    wanted = int((ranked.cumsum(-1) - ranked < top_p).sum())
    assert abs(len(kept) - wanted) <= 1
    assert torch.equal(kept, ranked[: len(kept)])
    assert torch.equal(odds[order], kept)


def test_top_p_counts_within_top_k():
    """As in transformers: top_k first, then top_p over what is left, renormalised."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    found = draws(Sampling(temperature=1.0, top_k=2, top_p=0.6, seed=0), logits)
    assert found.tolist() == [1, 0, 0]


def test_the_repetition_penalty_is_that_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, recent = torch.randn(50), torch.tensor([3, 7, 7, 20])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(recent[None], logits[None])[0]
    assert torch.equal(penalised(logits, recent, 1.3), expected)
    assert Sampling(repetition_penalty=5.0).pick(torch.tensor([2.0, 1.9]), torch.tensor([0])) == 1


def test_a_seed_gives_the_same_tokens():
    logits = torch.randn(100)
    first, second, other = (draws(Sampling(temperature=1.0, seed=s), logits, count=50) for s in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(ModelError, match="not finite"):
        Sampling().pick(torch.tensor([0.0, float("nan")]), NONE)


@pytest.mark.parametrize("seed", [99999999999999999999, 2**64, -(2**63) - 1])
def test_a_seed_that_torch_does_not_take_is_refused(seed):
    with pytest.raises(ConfigError, match=rf"^seed={seed}: must be a whole number from"):
        Sampling(temperature=1, seed=seed)


@pytest.mark.parametrize("seed", [0, -1, 2**64 - 1, -(2**63)])
def test_every_seed_that_torch_takes_is_taken(seed):
    torch.Generator().manual_seed(Sampling(temperature=1, seed=seed).seed)
