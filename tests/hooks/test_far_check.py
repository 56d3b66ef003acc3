"""What positions change besides rotation, however far away: taken from the place in the cache, or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers.models.llama.modeling_llama as llama

import everlong
from everlong.errors import CapabilityError, RotationError
from everlong.hooks.attach import attach
from everlong.models.layout import Temperature
from tests.families.configs import FAMILIES
from tests.families.measure import fresh
from tests.families.models import build, stream, tokens

FAMILY = {f.name: f for f in FAMILIES}


@pytest.fixture
def bent(tiny_llama, monkeypatch):
    """A Llama of trained length 64 whose rotated queries or keys are changed by a function of their positions."""

    def make(change, of="queries"):
        model, seen = tiny_llama(vocab_size=101, max_position_embeddings=64, head_dim=8), []
        rotary, rotate = model.model.rotary_emb.forward, llama.apply_rotary_pos_emb

        def keep(x, position_ids):
            seen[:] = [position_ids.double()]
            return rotary(x, position_ids)

        def bend(q, k, cos, sin, unsqueeze_dim=1):
            q, k = rotate(q, k, cos, sin, unsqueeze_dim)
            factor = change(seen[0])[:, None, :, None].float()
            return (q * factor, k) if of == "queries" else (q, k * factor)

        monkeypatch.setattr(model.model.rotary_emb, "forward", keep)
        monkeypatch.setattr(llama, "apply_rotary_pos_emb", bend)
        return model

    return make


@pytest.mark.parametrize(
    "change",
    [
        lambda p: 1 + 0.1 * torch.log(p.clamp_min(64) / 64),
        lambda p: 1 + 0.3 * (p >= 64),
        lambda p: 1 + 0.3 * (p > 200),
        lambda p: torch.where(p < 64, 1, torch.log(p + 1) / math.log(64)),
        lambda p: 1 - 0.2 * (p > 33),
        lambda p: torch.where(p < 250, 1, -1),
    ],
    ids=["clamped logarithm", "a step at the length", "a step above it", "log n", "smaller", "the other way"],
)
@pytest.mark.parametrize("of", ["queries", "keys"])
def test_an_unknown_change_far_away_is_refused(bent, change, of):
    model = bent(change, of)
    with pytest.raises(RotationError, match="cannot be moved") as error:
        attach(model, everlong.Dense())
    assert "\n" not in str(error.value)
    assert "forward" not in vars(model.model)


def test_a_llama_that_is_not_bent_is_taken(bent):
    attach(bent(torch.ones_like), everlong.Dense()).detach()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ministral3", Temperature(8.0, 0.5, 0, indexed=False)),
        ("mistral4", Temperature(8.0, 0.5, 0, indexed=False)),
        ("llama4", Temperature(4.0, 0.5, 1, indexed=True)),
    ],
)
def test_a_known_scale_is_found(name, expected):
    model, at = build(FAMILY[name]), np.arange(5000)
    with attach(model, everlong.Dense()) as handle:
        found = [p.temperature for p in handle.plan.layers if p.temperature is not None]
    assert found
    for temperature in found:
        assert temperature.indexed == expected.indexed
        np.testing.assert_allclose(temperature.scale(at), expected.scale(at), rtol=1e-6)


@pytest.mark.parametrize("name", ["ministral3", "mistral4"])
def test_padded_rows_of_a_scaled_model_equal_rows_alone(name):
    model, ids, pads = build(FAMILY[name]), tokens(90, batch=2), (0, 7)
    mask = torch.stack([torch.arange(90) >= pad for pad in pads]).long()
    with attach(model, everlong.Sinks(sinks=4, window=24)) as handle, torch.no_grad():
        cache, rows = handle.new_cache(), []
        for a, b in ((0, 30), (30, 31), (31, 90)):
            rows.append(model(ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache).logits)
        for row, pad, got in zip(ids, pads, torch.cat(rows, 1), strict=True):
            alone = stream(model, handle.new_cache(), row[None, pad:], 7)[0]
            # Rows together run by the modules, a row alone from the list: within 1e-4 of the largest logit.
            torch.testing.assert_close(got[pad:], alone, atol=1e-4 * float(alone.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["phi3 longrope", "llama dynamic", "gptj"])
@pytest.mark.parametrize("method", [everlong.Sinks(sinks=4, window=61), everlong.Window(window=100)], ids=str)
def test_a_window_longer_than_the_angles_hold_is_refused_when_they_end(name, method):
    model, ids = build(FAMILY[name]), tokens(80)
    with attach(model, method) as handle, torch.no_grad():
        cache = handle.new_cache()
        stream(model, cache, ids[:, :64], 8)
        with pytest.raises(CapabilityError, match="shorter than that together"):
            stream(model, cache, ids[:, 64:], 8)
        assert cache.stream.seen_tokens == 64


def test_a_window_as_long_as_the_angles_hold_is_exact():
    model, ids = build(FAMILY["phi3 longrope"], "full"), tokens(150)
    want = fresh(model, ids, sinks=4, window=60)
    with attach(model, everlong.Sinks(sinks=4, window=60)) as handle:
        for cut in (7, 33):
            torch.testing.assert_close(stream(model, handle.new_cache(), ids, cut), want, atol=1e-4, rtol=0)


def test_keys_that_lie_in_the_slowest_pairs_are_rotated_all_the_same(tiny_llama):
    rope = {"rope_type": "default", "rope_theta": 1e6}
    model = tiny_llama(vocab_size=101, max_position_embeddings=32768, rope_parameters=rope, attention_bias=True)
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    bias, dim = model.model.layers[1].self_attn.k_proj.bias, model.model.layers[1].self_attn.head_dim
    with torch.no_grad():
        bias.view(-1, dim)[:, dim // 2 - 1] = 60.0
    with attach(model, everlong.Sinks()) as handle:
        assert all(layer.rotation is not None for layer in handle.plan.layers)
