"""What was kept of a family's model serves it again: the same numbers, without a probe."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

import everlong
from everlong.engine.stream import TokenStream
from everlong.hooks import kept, patch
from everlong.methods.base import Method
from everlong.models.load import Loaded
from tests.families.chosen import each
from tests.families.configs import FAMILIES, Family
from tests.families.measure import TIGHT
from tests.families.models import build, tokens
from tests.families.zoo import tiny

BLOCKS = {"window": 12, "sinks": 3, "block": 5, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6}


@pytest.mark.parametrize("family", each(f for f in FAMILIES if f.refused is None))
def test_a_kept_family_gives_the_same(family: Family, monkeypatch, tmp_path):
    gives_the_same(build(family), TIGHT, monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["Qwen3NextForCausalLM", "JambaForCausalLM", "FalconH1ForCausalLM"])
def test_a_kept_hybrid_gives_the_same(name: str, monkeypatch, tmp_path):
    gives_the_same(tiny(name), TIGHT, monkeypatch, tmp_path)


def test_a_kept_model_of_latent_vectors_gives_the_same(monkeypatch, tmp_path):
    gives_the_same(tiny("DeepseekV3ForCausalLM"), everlong.Blocks(**BLOCKS), monkeypatch, tmp_path)


def gives_the_same(first: PreTrainedModel, method: Method, monkeypatch, tmp_path) -> None:
    """What was kept of a model serves a copy of it: the same bits, without a probe."""
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "FEWEST_WEIGHTS", 0)
    text = tokens(70)[0]
    found = []
    second = copy.deepcopy(first)
    for model in (first, second):
        with TokenStream(Loaded(model, None, "m"), method, 40) as stream:
            stream.feed(text[:60])
            for token in text[60:].tolist():
                stream.feed([token])
                found.append(stream.prediction)
        monkeypatch.setattr(patch, "probe", lambda *args: pytest.fail("probed again"))
    assert torch.equal(torch.stack(found[:10]), torch.stack(found[10:]))
