"""Weights of 4 bits are rounded for a text, once: the next load takes them from the cache."""

from __future__ import annotations

import pytest
import torch

from everlong.hooks.adapter import load
from everlong.models import packed_kept, packed_linear
from everlong.models.calibrated import calibration_ids, input_moments
from tests.models.tiny import byte_tokenizer, save_folder, tiny_model

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path))
    monkeypatch.setattr(packed_kept, "FEWEST_WEIGHTS", 0)
    return tmp_path / "packed"


@pytest.fixture
def rounded(monkeypatch):
    """A list that grows by one for each model whose inputs are looked at."""
    found = []
    seen = packed_linear.input_moments
    monkeypatch.setattr(packed_linear, "input_moments", lambda *args: (found.append(args), seen(*args))[1])
    return found


@torch.no_grad()
def test_a_second_load_takes_what_was_kept(folder, rounded):
    first = load(folder, weights="int4").model(IDS).logits
    assert torch.equal(load(folder, weights="int4").model(IDS).logits, first)
    assert len(rounded) == 1
    load(folder, dtype="bfloat16", weights="int4")
    assert len(rounded) == 2


@torch.no_grad()
def test_damaged_weights_are_made_again(folder, rounded, place):
    first = load(folder, weights="int4").model(IDS).logits
    (kept,) = place.iterdir()
    whole = (kept / "weights").read_bytes()
    (kept / "weights").write_bytes(whole[:-8] + b"damaged!")
    assert torch.equal(load(folder, weights="int4").model(IDS).logits, first)
    assert len(rounded) == 2


@torch.no_grad()
def test_a_cache_that_cannot_be_written_is_said_and_the_model_is_there(folder, rounded, place, caplog):
    place.write_text("a file where the folder would be")
    load(folder, weights="int4").model(IDS)
    assert "cannot be kept" in caplog.text


def test_other_forms_and_models_without_a_tokenizer_look_at_no_inputs(folder, rounded, place):
    load(folder, weights="int8")
    packed_linear.pack_model(tiny_model(), "int4")
    assert rounded == []
    assert not place.exists()


def test_layers_that_are_given_the_same_share_what_was_seen():
    model = tiny_model()
    ids = calibration_ids(byte_tokenizer())
    attention = model.model.layers[0].self_attn
    mlp = model.model.layers[0].mlp
    layers = {"q": attention.q_proj, "v": attention.v_proj, "gate": mlp.gate_proj}
    found = input_moments(model, layers, ids[:200])
    assert torch.equal(found["q"], found["v"])
    assert not torch.equal(found["q"], found["gate"])
    assert not attention.q_proj._forward_pre_hooks


def test_a_model_that_cannot_read_the_text_is_rounded_without(caplog):
    model = tiny_model()
    assert input_moments(model, {"q": model.model.layers[0].self_attn.q_proj}, torch.tensor([10**6])) == {}
    assert "rounded without" in caplog.text
