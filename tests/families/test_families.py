"""Every family of the table: equal to plain transformers, to the one-layer oracle and to itself in any chunks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from everlong.errors import CapabilityError, PrecisionError
from everlong.hooks.attach import attach
from everlong.methods import Window
from tests.families.chosen import PUSH, each, each_layer
from tests.families.configs import FAMILIES, Family
from tests.families.measure import ONES, STREAM, TIGHT, attributes_of, banded, invariance, oracle, parity
from tests.families.models import build, stream, tokens

TOLERANCE = 1e-4
FAMILY = {f.name: f for f in FAMILIES}
EXACT = [f for f in FAMILIES if f.refused is None]
REFUSED = [f for f in FAMILIES if f.refused is not None]
LAYERS = each_layer(EXACT)
LIMITED = {"llama dynamic", "phi3 longrope", "gptj"}
NAMED = """
llama mistral mixtral qwen2 qwen3 qwen3_moe gemma2 gemma3 gemma3n gemma4 phi phi3 olmo2 olmoe stablelm gpt_neox
smollm3 gpt_oss glm4 glm4_moe cohere cohere2 granite starcoder2 deepseek_v2 deepseek_v3 llama4 qwen2_vl minimax_m2
ernie4_5 exaone4 hunyuan_v1_dense nemotron bitnet apertus seed_oss falcon mpt bloom gptj gpt2 opt
"""


def test_every_named_family_has_a_row():
    assert set(NAMED.split()) <= {f.name for f in FAMILIES}
    assert set(PUSH) <= {f.name for f in EXACT}


@pytest.mark.parametrize("family", each(EXACT))
def test_equals_plain_transformers_while_all_fits(family: Family):
    assert parity(family) <= TOLERANCE


@pytest.mark.parametrize(("family", "kind"), LAYERS)
def test_a_layer_after_eviction_equals_a_fresh_forward(family: Family, kind: str):
    assert oracle(family, kind, TIGHT) <= TOLERANCE


@pytest.mark.parametrize(("family", "kind"), LAYERS)
def test_a_layer_without_sinks_equals_a_fresh_forward(family: Family, kind: str):
    assert oracle(family, kind, Window(window=13), (31,)) <= TOLERANCE


@pytest.mark.parametrize("family", each(EXACT))
def test_deep_stream_does_not_depend_on_chunks(family: Family):
    assert invariance(family) <= TOLERANCE


@pytest.mark.parametrize("family", each(f for f in EXACT if f.banded))
def test_deep_window_equals_plain_transformers_under_a_band(family: Family):
    assert banded(family) <= TOLERANCE


@pytest.mark.parametrize("native", [13, 14, 16, 17])
@pytest.mark.parametrize("name", ["mistral", "gpt_oss"])
def test_native_window_counts_cache_distance(name: str, native: int):
    """Below, between and above window and sinks + window: the last two sinks of four, all of them, ..."""
    family = FAMILY[name]
    family = replace(family, fields=dict(family.fields) | {"sliding_window": native})
    assert oracle(family, "sliding", TIGHT, (ONES, 31)) <= TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gemma3n", "gemma4", "mpt", "falcon"])
def test_last_logits_alone_are_the_same(name: str):
    """With logits_to_keep=1 gemma4 passes only the last queries to layers that share keys."""
    model, ids = build(FAMILY[name]), tokens(50)
    with attach(model, TIGHT) as handle, torch.no_grad():
        want = stream(model, handle.new_cache(), ids, 50)[:, -1:]
        cache = handle.new_cache()
        model(input_ids=ids[:, :37], past_key_values=cache, use_cache=True, logits_to_keep=1)
        got = model(input_ids=ids[:, 37:], past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gemma3", "llama4", "deepseek_v3", "gptj", "falcon"])
def test_left_padded_rows_equal_rows_alone(name: str):
    model, ids, pads = build(FAMILY[name]), tokens(80, batch=3), (0, 5, 9)
    mask = torch.stack([torch.arange(80) >= pad for pad in pads]).long()
    with attach(model, TIGHT) as handle, torch.no_grad():
        cache, rows = handle.new_cache(), []
        for a, b in itertools.pairwise((0, 20, 21, 22, 50, 51, 80)):
            rows.append(model(ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache, use_cache=True).logits)
        for row, pad, got in zip(ids, pads, torch.cat(rows, 1), strict=True):
            alone = stream(model, handle.new_cache(), row[None, pad:], 7)[0]
            torch.testing.assert_close(got[pad:], alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", each(EXACT))
def test_a_chunk_longer_than_the_trained_length(family: Family):
    """Exact, or refused where the model computes other angles past that length."""
    kind = next(iter(family.kinds))
    if family.name in LIMITED:
        with pytest.raises(CapabilityError, match="read in shorter chunks"):
            oracle(family, kind, TIGHT, (STREAM,))
    else:
        assert oracle(family, kind, TIGHT, (STREAM,)) <= TOLERANCE


@pytest.mark.parametrize("family", REFUSED, ids=str)
def test_what_cannot_be_exact_is_refused_and_says_why(family: Family):
    model = build(family)
    before = attributes_of(model)
    assert family.refused is not None
    with pytest.raises(family.refused, match=family.because) as caught:
        attach(model, TIGHT)
    assert "\n" not in str(caught.value)
    assert attributes_of(model) == before


def test_frequencies_in_a_half_type_are_refused():
    model = build(FAMILY["llama"]).to(torch.bfloat16)
    with pytest.raises(PrecisionError, match=r"inv_freq.*bfloat16"):
        attach(model, TIGHT)
