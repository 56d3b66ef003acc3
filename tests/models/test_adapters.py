"""LoRA adapters: active while attached, merged or not, told apart, loaded from a folder of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from everlong import Sinks
from everlong.errors import AttachError, ConfigError, LoadError
from everlong.hooks.adapter import load
from everlong.hooks.attach import attach
from everlong.models import adapters
from everlong.models.fingerprint import checkpoint_digest, fingerprint
from everlong.models.load import Loaded
from tests.models.attached import IDS, attaches, keeps
from tests.models.tiny import byte_tokenizer, save_folder, save_gguf, tiny_model

peft = pytest.importorskip("peft", reason="needs PEFT (extra train)")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's


def wrapped(seed: int = 0) -> Any:
    """The tiny model with a LoRA adapter that is not zero."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(tiny_model(), config).eval()


def save_adapter(folder: Path, base: str, seed: int = 0) -> Path:
    wrapped(seed).save_pretrained(folder)
    file = folder / adapters.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))
    return folder


@pytest.fixture
def base(tmp_path):
    return save_folder(tmp_path / "base")


def as_loaded(model: Any) -> Loaded:
    return Loaded(model.requires_grad_(False), byte_tokenizer(), "tiny")


def test_an_adapter_is_active_while_attached():
    model = wrapped()
    with pytest.raises(AttachError, match=r"got PeftModel.*; pass model\.get_base_model\(\)"):
        attach(model, Sinks())
    inner = model.get_base_model()
    assert (inner(IDS[None]).logits - tiny_model()(IDS[None]).logits).abs().max() > 0.01
    attaches(as_loaded(inner))


@torch.no_grad()
def test_an_adapter_that_is_turned_off_while_attached_is_off():
    model = wrapped()
    inner = model.get_base_model().requires_grad_(False)
    with attach(inner, Sinks(sinks=2, window=78)) as handle:
        cache = handle.new_cache(chunk=16)
        inner(IDS[None, :20], past_key_values=cache)
        inner(IDS[None, 20:21], past_key_values=cache)
        with model.disable_adapter():
            other = handle.new_cache(chunk=16)
            got = [inner(IDS[None, at : at + 1], past_key_values=other).logits for at in range(20)]
    want = tiny_model()(IDS[None, :20]).logits
    assert (torch.cat(got, 1) - want).abs().max() <= 1e-5 * want.abs().max()


def test_a_merged_adapter_is_a_plain_model():
    model = wrapped()
    want = model(IDS[None]).logits
    merged = model.merge_and_unload()
    assert (merged(IDS[None]).logits - want).abs().max() <= 1e-5 * want.abs().max()
    attaches(as_loaded(merged))


def test_what_is_active_is_told_apart():
    model = wrapped()
    inner = model.get_base_model()
    prints = [fingerprint(inner, None)["weights"], checkpoint_digest(inner)]
    with model.disable_adapter():
        prints += [fingerprint(inner, None)["weights"], checkpoint_digest(inner)]
    inner.model.layers[0].mlp.up_proj.scaling["default"] *= 2
    prints += [fingerprint(inner, None)["weights"], checkpoint_digest(inner)]
    inner.model.layers[0].mlp.up_proj.scaling["default"] /= 2
    assert [fingerprint(inner, None)["weights"], checkpoint_digest(inner)] == prints[:2]
    prints.append(fingerprint(wrapped(seed=1).get_base_model(), None)["weights"])
    model.merge_adapter()
    prints += [fingerprint(inner, None)["weights"], checkpoint_digest(inner)]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("weights", ["full", "int8"])
def test_the_folder_of_an_adapter_is_loaded_with_its_model(tmp_path, base, weights):
    path = save_adapter(tmp_path / "adapter", str(base))
    loaded = load(path, weights=weights)
    want = wrapped()(IDS[None]).logits
    assert (loaded.model(IDS[None]).logits - want).abs().max() <= (
        1e-5 if weights == "full" else 0.05
    ) * want.abs().max()
    assert loaded.tokenizer("ab é").input_ids == byte_tokenizer()("ab é").input_ids
    assert loaded.origin["model"] == str(path.resolve())
    attaches(loaded)


def test_sessions_know_their_adapter(tmp_path, base):
    path = save_adapter(tmp_path / "one", str(base))
    other = save_adapter(tmp_path / "two", str(base), seed=1)
    keeps(load(path), load(path), load(other), tmp_path)
    (tmp_path / "plain").mkdir()
    keeps(load(path), load(path), load(base), tmp_path / "plain")


def test_an_adapter_is_put_on_a_gguf_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "home"))
    path = save_adapter(tmp_path / "adapter", str(save_gguf(tmp_path / "tiny.gguf")))
    want = wrapped()(IDS[None]).logits
    assert (load(path).model(IDS[None]).logits - want).abs().max() <= 1e-5 * want.abs().max()
    with pytest.raises(ConfigError, match="weights=file: not with an adapter"):
        load(path, weights="file")


def test_what_is_wrong_with_an_adapter_is_said(tmp_path, base, monkeypatch):
    gone = save_adapter(tmp_path / "gone", str(tmp_path / "nothing"))
    with pytest.raises(LoadError, match=r"an adapter; of the model that it is for: .*no such file or folder"):
        load(gone)
    other = save_adapter(tmp_path / "other", str(save_folder(tmp_path / "wide", hidden_size=64)))
    with pytest.raises(LoadError, match="this adapter cannot be put on its model") as raised:
        load(other)
    assert "\n" not in str(raised.value)
    good = save_adapter(tmp_path / "good", str(base))
    for content, said in (("{}", "does not say base_model_name_or_path"), ("[", "cannot be read"), ("[]", "cannot be")):
        (gone / adapters.CONFIG).write_text(content)
        with pytest.raises(LoadError, match=said):
            load(gone)
    find = adapters.importlib.util.find_spec
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(LoadError, match="an adapter, which is loaded with PEFT; run `pip install peft`"):
        load(good)
