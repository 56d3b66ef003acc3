"""Models with packed weights: of any family, known again, kept apart from those with others, refused by one line."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from everlong.errors import ConfigError, ForeignError
from everlong.hooks.adapter import load, write_memory
from everlong.hooks.attach import attach
from everlong.methods.sinks import Sinks
from everlong.models.fingerprint import checkpoint_digest, fingerprint
from everlong.models.packed_linear import (
    PackedLinear,
    pack_model,
    packed_layers,
    packings,
    parameters_of,
    weight_bytes,
)
from everlong.ops import native
from everlong.session.session import Session
from tests.families.configs import FAMILIES
from tests.families.models import build, plain, tokens
from tests.models.tiny import save_folder, tiny_model

IDS = torch.arange(60)[None] % 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("tiny"), tie_word_embeddings=True, hidden_size=64)


@pytest.fixture
def without(monkeypatch):
    """No C extension."""
    monkeypatch.setenv(native.SWITCH, "0")
    native.extension.cache_clear()
    yield
    native.extension.cache_clear()


def unpacked(model):
    """The model with plain layers of what its packed ones stand for."""
    found = copy.deepcopy(model)
    for name, layer in packed_layers(found):
        linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        linear.weight.data, linear.bias = layer.weight, layer.bias
        owner, _, own = name.rpartition(".")
        setattr(found.get_submodule(owner), own, linear.to(model.dtype))
    return found


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_linear_layers_are_packed_and_embeddings_are_not(folder, weights):
    loaded = load(folder, weights=weights)
    layers = dict(packed_layers(loaded.model))
    assert len(layers) == 15
    assert layers["lm_head"].form == "q8"
    assert {m.form for name, m in layers.items() if name != "lm_head"} == {"q8" if weights == "int8" else "q4"}
    assert not any(isinstance(m, nn.Linear) for m in loaded.model.modules())
    assert isinstance(loaded.model.get_input_embeddings(), nn.Embedding)
    assert loaded.origin["weights"] == weights
    assert "weights" not in load(folder).origin
    assert parameters_of(loaded.model) == parameters_of(load(folder).model)
    assert weight_bytes(loaded.model) < weight_bytes(load(folder).model)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_model_computes_with_what_its_weights_stand_for(folder, weights, dtype):
    model = load(folder, dtype, weights=weights).model
    want = unpacked(model)(IDS).logits.float()
    assert (model(IDS).logits.float() - want).abs().max() <= (1e-5 if dtype == "float32" else 0.02) * want.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_without_the_extension_it_computes_the_same(folder, weights, dtype, without):
    model = load(folder, dtype, weights=weights).model
    want = unpacked(model)(IDS).logits.float()
    for _ in range(2):
        got = model(IDS).logits.float()
        assert (got - want).abs().max() <= (1e-5 if dtype == "float32" else 0.03) * want.abs().max()


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_stream_over_packed_weights_is_the_same_for_any_chunks(folder, weights):
    loaded = load(folder, weights=weights)
    found = []
    for chunk in (1, 7, 60):
        with Session(loaded, Sinks(sinks=2, window=24), chunk=chunk) as session:
            found.append(session.score(IDS[0])[1:])
    assert torch.allclose(found[0], found[1], atol=1e-4)
    assert torch.allclose(found[0], found[2], atol=1e-4)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_a_session_is_not_continued_with_other_weights(folder, weights, tmp_path):
    full, packed = load(folder), load(folder, weights=weights)
    with Session(full, Sinks(sinks=2, window=24)) as session:
        session.feed(IDS[0])
        path = session.save(tmp_path / "full")
    with pytest.raises(ForeignError, match=r"another model weights .* with the same dtype and weights"):
        Session.load(path, packed)
    with Session(packed, Sinks(sinks=2, window=24)) as session:
        session.feed(IDS[0])
        path = session.save(tmp_path / "packed")
    with pytest.raises(ForeignError, match="another model weights"):
        Session.load(path, full)
    with Session.load(path, load(folder, weights=weights)) as session:
        assert session.seen_tokens == 60


def test_one_changed_layer_is_another_model(folder):
    one, other = load(folder, weights="int4"), load(folder, weights="int4")
    assert fingerprint(one.model, None) == fingerprint(other.model, None)
    other.model.model.layers[1].mlp.up_proj.packed += 1
    assert fingerprint(one.model, None)["weights"] != fingerprint(other.model, None)["weights"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_packed_checkpoint_is_known_again(tmp_path, tied):
    """Retrieval heads that were found for a model serve it in whichever form it is loaded."""
    save_folder(tmp_path, tie_word_embeddings=tied)
    digests = {checkpoint_digest(load(tmp_path, weights=w).model) for w in ("full", "int8", "int4")}
    assert len(digests) == 1
    assert checkpoint_digest(load(tmp_path, "bfloat16", weights="int4").model) in digests


def test_casting_a_packed_model_leaves_its_scales_alone(folder):
    model = load(folder, weights="int4").model
    before = model.model.layers[0].mlp.up_proj.packed.clone()
    cast = model.to(torch.bfloat16)
    assert torch.equal(cast.model.layers[0].mlp.up_proj.packed, before)
    assert cast.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_inputs_get_gradients_through_packed_layers(folder):
    model = load(folder, weights="int4").model
    x = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=x).logits.sum().backward()
    assert x.grad.abs().sum() > 0


@torch.no_grad()
def test_in_an_exported_graph_a_packed_layer_is_one_operator():
    layer = PackedLinear.of(nn.Linear(40, 33), "int4")
    x = torch.randn(2, 40)
    exported = torch.export.export(layer, (x,))
    assert [n.target for n in exported.graph.nodes if n.op == "call_function"] == [
        torch.ops.everlong.packed_linear.default
    ]
    assert torch.allclose(exported.module()(x), layer(x), atol=1e-6)


def test_code_that_takes_the_weights_gets_them():
    linear = nn.Linear(40, 33)
    packed = PackedLinear.of(linear, "int8")
    assert packed.weight.shape == (33, 40)
    assert (packed.weight - linear.weight).abs().max() < 0.002
    assert "weights=q8" in repr(packed)


def test_small_layers_stay_as_they_are():
    model = tiny_model()
    model.model.layers[0].router = nn.Linear(32, 4)
    pack_model(model, "int4")
    assert type(model.model.layers[0].router) is nn.Linear


def test_what_cannot_be_packed_is_told(caplog):
    """FalconLinear computes in its own way, and experts are one tensor."""
    pack_model(build(next(f for f in FAMILIES if f.name == "falcon")), "int4")
    assert "0 % of this model's weights are in plain linear layers" in caplog.text
    caplog.clear()
    pack_model(tiny_model(), "int4")
    assert not caplog.text


@pytest.mark.parametrize("name", ["gemma3n", "gpt_oss", "deepseek_v3", "mpt", "gptj", "phi3 longrope"])
def test_families_compute_with_what_their_weights_stand_for(name):
    """Fused projections, shared layers, experts, latent keys, biases, names of their own."""
    model = build(next(f for f in FAMILIES if str(f) == name))
    pack_model(model, "int4")
    want = plain(unpacked(model), tokens(40))
    assert (plain(model, tokens(40)) - want).abs().max() <= 1e-4 * want.abs().max()


def test_small_layers_keep_eight_bits():
    """Keys and values of few heads: few bytes, much to lose."""
    model = tiny_model(hidden_size=128, intermediate_size=512, num_key_value_heads=1)
    pack_model(model, "int4")
    forms = {name.rpartition(".")[2]: layer.form for name, layer in packed_layers(model)}
    eight = {name for name, form in forms.items() if form == "q8"}
    assert eight == {"k_proj", "v_proj", "lm_head"}


def test_unknown_weights_are_refused_before_anything_is_read():
    with pytest.raises(
        ConfigError, match=r"weights=int5: expected full \(as dtype says\), int8, int4, or file .*; did you mean"
    ):
        load("./absent", weights="int5")


def test_a_model_without_linear_layers_is_refused():
    model = tiny_model(hidden_size=16, intermediate_size=16)
    with pytest.raises(ConfigError, match="weights=int4: LlamaForCausalLM has no linear layers to pack"):
        pack_model(model, "int4")


def test_packed_weights_are_not_written(folder, tmp_path):
    loaded = load(folder, weights="int4")
    with pytest.raises(ConfigError, match="weights: a memory is trained for and written with full weights"):
        write_memory(loaded.model, Sinks(), tmp_path)


def test_a_shipped_memory_goes_on_packed_weights():
    loaded = load("everlong/infini-passkey", weights="int8")
    assert loaded.method.name == "infini"
    with attach(loaded.model, loaded.method), torch.no_grad():
        assert loaded.model(IDS % 100).logits.isfinite().all()


def test_layers_of_an_adapter_stay_as_they_are(tiny_llama):
    model = tiny_llama(hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    model.model.layers[0].self_attn.q_proj.lora_A = torch.nn.Linear(64, 64)
    assert not any("lora_A" in name for name in packings(model, "int8"))
