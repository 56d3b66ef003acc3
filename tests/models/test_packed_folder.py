"""GGUF files with packed weights: what they hold stays, the cache is made once, and nothing is there in full."""

from __future__ import annotations

import gguf as format
import pytest
import torch

from everlong.errors import ConfigError
from everlong.hooks.adapter import load
from everlong.models import gguf
from everlong.models.fingerprint import checkpoint_digest, fingerprint
from everlong.models.packed_linear import packed_layers
from tests.models.tiny import byte_tokenizer, save_folder, save_gguf

KINDS = format.GGMLQuantizationType
IDS = torch.arange(3, 60)[None]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "home"))
    return tmp_path / "home" / "gguf"


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
def test_it_is_packed_once_for_any_dtype(tmp_path, home, weights, dtype, monkeypatch):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q4_1)
    first = load(path, dtype, weights=weights).model
    monkeypatch.setattr(gguf, "read", lambda *_: pytest.fail("read again"))
    second = load(path, dtype, weights=weights).model
    assert fingerprint(first, None) == fingerprint(second, None)
    other = load(path, "float32", weights=weights).model
    assert checkpoint_digest(other) == checkpoint_digest(first)
    assert [entry.name.startswith("tiny-") for entry in home.iterdir()] == [True]
    assert second.dtype == getattr(torch, dtype)
    assert second.model.rotary_emb.inv_freq.dtype == torch.float32
    assert second.generation_config.eos_token_id == 2
    assert not second.training
    assert all(layer.packed.data_ptr() % 64 == 0 for _, layer in packed_layers(second))
    with torch.no_grad():
        assert torch.equal(first(IDS).logits, second(IDS).logits)


def test_packed_and_unpacked_files_are_the_same_checkpoint(tmp_path):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q4_1)
    full = load(path)
    for weights in ("int8", "int4", "file"):
        assert checkpoint_digest(load(path, weights=weights).model) == checkpoint_digest(full.model)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, caplog):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q4_1)
    want = load(path, "bfloat16", weights="int4").model(IDS).logits
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "file"))
    found = load(path, "bfloat16", weights="int4").model
    assert "packed anew" in caplog.text
    assert torch.equal(found(IDS).logits, want)


def test_a_damaged_entry_is_made_again(tmp_path, home):
    path = save_gguf(tmp_path / "tiny.gguf", kind=KINDS.Q4_1)
    want = load(path, weights="int4").model(IDS).logits
    (file,) = home.glob("*/packed.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(load(path, weights="int4").model(IDS).logits, want)


def test_only_gguf_files_have_weights_of_their_own(tmp_path):
    with pytest.raises(ConfigError, match=r"weights=file: .* is not a GGUF file; use int8, int4 or full"):
        load(save_folder(tmp_path), weights="file")
