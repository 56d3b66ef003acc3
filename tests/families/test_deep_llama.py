"""A deep Llama against the slow reference at every token: what one-layer oracles cannot see."""

from __future__ import annotations

import pytest
import torch

from everlong.hooks.attach import attach
from everlong.methods import Sinks, Window
from tests.families.configs import Family
from tests.families.models import build, plain, stream, tokens
from tests.reference import SlowSinks

DEEP = Family("llama of four layers", "LlamaForCausalLM", deep={"num_hidden_layers": 4})
TEXT = tokens(330, seed=5)


@pytest.fixture(scope="module")
def model():
    return build(DEEP, seed=4)


@pytest.fixture(scope="module")
def slow(model):
    """Logits of the slow reference for Sinks(4, 12), [1, tokens, vocabulary] in float64."""
    return SlowSinks(model, sinks=4, window=12).read(TEXT)[None]


def test_the_reference_is_plain_transformers_while_all_fits(model):
    ids = TEXT[:, :60]
    reference = SlowSinks(model, sinks=4, window=60).read(ids)[None]
    torch.testing.assert_close(plain(model, ids).double(), reference, atol=5e-5, rtol=0)


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_every_token_equals_the_slow_reference(model, slow, chunk):
    with attach(model, Sinks(sinks=4, window=12)) as handle:
        got = stream(model, handle.new_cache(), TEXT, chunk)
    torch.testing.assert_close(got.double(), slow, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("sinks", "window"), [(1, 1), (0, 1), (5, 2), (3, 63), (1, 40)])
def test_odd_sizes_equal_the_slow_reference(model, sinks, window):
    method = Sinks(sinks=sinks, window=window) if sinks else Window(window=window)
    want = SlowSinks(model, sinks, window).read(TEXT[:, :150])[None]
    with attach(model, method) as handle:
        for chunk in (1, 33, 150):
            got = stream(model, handle.new_cache(), TEXT[:, :150], chunk)
            torch.testing.assert_close(got.double(), want, atol=1e-4, rtol=0)
