"""GGUF files with packed weights: what they hold stays, and nothing is there in full."""

from __future__ import annotations

import gguf as format
import pytest
import torch

from everlong.errors import ConfigError
from everlong.hooks.adapter import load
from everlong.models.fingerprint import checkpoint_digest, fingerprint
from everlong.models.packed_linear import pack_model, packed_layers
from tests.models.tiny import byte_tokenizer, save_folder, save_gguf

KINDS = format.GGMLQuantizationType
IDS = torch.arange(3, 60)[None]


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "home"))


@torch.no_grad()
@pytest.mark.parametrize("kind", [KINDS.Q4_0, KINDS.Q4_1, KINDS.Q5_0, KINDS.Q8_0])
def test_a_file_stays_what_it_is(tmp_path, kind):
    """In 4 bits where 4 hold it, else in 8: the layers of whole blocks give what the unpacked ones give."""
    path = save_gguf(tmp_path / "tiny.gguf", kind=kind)
    full, packed = load(path), load(path, weights="file")
    plain = dict(full.model.named_modules())
    layers = dict(packed_layers(packed.model))
    for name, layer in layers.items():
        if "down_proj" not in name:
            assert layer.form == ("q4" if kind in (KINDS.Q4_0, KINDS.Q4_1) else "q8")
            most = plain[name].weight.abs().max()
            assert (layer.weight - plain[name].weight).abs().max() <= (0 if kind != KINDS.Q4_0 else 2**-11) * most
    assert packed.tokenizer("ab é").input_ids == byte_tokenizer()("ab é").input_ids
    assert packed.origin["weights"] == "file"
    want = full.model(IDS).logits
    assert (packed.model(IDS).logits - want).abs().max() <= 0.02 * want.abs().max()


@pytest.mark.parametrize("weights", ["int8", "int4", "file"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_same_each_time_and_in_any_dtype(tmp_path, weights, dtype):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q4_1)
    first = load(path, dtype, weights=weights).model
    second = load(path, dtype, weights=weights).model
    assert fingerprint(first, None) == fingerprint(second, None)
    other = load(path, "float32", weights=weights).model
    assert checkpoint_digest(other) == checkpoint_digest(first)
    assert second.dtype == getattr(torch, dtype)
    assert second.model.rotary_emb.inv_freq.dtype == torch.float32
    assert second.generation_config.eos_token_id == 2
    assert not second.training
    assert all(layer.packed.data_ptr() % 64 == 0 for _, layer in packed_layers(second))
    with torch.no_grad():
        assert torch.equal(first(IDS).logits, second(IDS).logits)


@pytest.mark.parametrize("kind", [KINDS.Q4_0, KINDS.Q5_0, KINDS.Q8_0])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_what_is_packed_from_the_file_is_what_is_packed_from_the_model(tmp_path, weights, kind):
    """The same forms, the same samples, and weights that differ by no more than a step of the rounding."""
    path = save_gguf(tmp_path / "tiny.gguf", kind=kind)
    whole = load(path).model
    pack_model(whole, weights)
    found = dict(packed_layers(load(path, weights=weights).model))
    for name, layer in packed_layers(whole):
        assert found[name].form == layer.form
        assert torch.equal(found[name].sample, layer.sample)
        assert (found[name].weight - layer.weight).abs().max() <= 2**-9 * layer.weight.abs().max()


def test_packed_and_unpacked_files_are_the_same_checkpoint(tmp_path):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q4_1)
    full = load(path)
    for weights in ("int8", "int4", "file"):
        assert checkpoint_digest(load(path, weights=weights).model) == checkpoint_digest(full.model)


def test_only_gguf_files_have_weights_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match=r"weights=file: .* is not a GGUF file; use int8, int4 or full"):
        load(save_folder(tmp_path), weights="file")
