"""What was found out about a model is kept and serves the same model again, and no other."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

import everlong
from everlong.hooks import kept, patch
from everlong.hooks.program.switch import switch_of
from everlong.models.internals import decoder_of
from everlong.models.packed_linear import pack_model
from everlong.ops.native import extension

IDS = torch.randint(97, (40,), generator=torch.Generator().manual_seed(3))
SHAPE = {"hidden_size": 64, "intermediate_size": 96}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache, in which small models have a place too."""
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path))
    monkeypatch.setattr(kept, "FEWEST_WEIGHTS", 0)
    return tmp_path / "attached"


@pytest.fixture
def probed(monkeypatch):
    """A list that grows by one for each model that is probed."""
    found = []
    probe = patch.probe
    monkeypatch.setattr(patch, "probe", lambda model, route: (found.append(model), probe(model, route))[1])
    return found


def written(model):
    """The predictions behind each of the last ten tokens, read one by one."""
    with everlong.Session(model, everlong.Sinks(sinks=2, window=20), chunk=16) as session:
        session.feed(IDS[:-10])
        found = []
        for token in IDS[-10:].tolist():
            session.feed([token], answering=True)
            found.append(session.prediction)
        return torch.stack(found)


@pytest.mark.parametrize("weights", ["full", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_load_of_the_same_model_is_not_probed_and_gives_the_same(tiny_llama, probed, folder, weights, dtype):
    def loaded():
        model = tiny_llama(**SHAPE)
        model.lm_head.to(dtype)
        model.model.embed_tokens.to(dtype)
        model.model.layers.to(dtype)
        model.model.norm.to(dtype)
        pack_model(model, weights)
        return model

    first = written(loaded())
    again = loaded()
    second = written(again)
    assert len(probed) == 1
    assert len(list(folder.iterdir())) == 1
    assert torch.equal(first, second)
    switch = switch_of(decoder_of(again))
    assert (switch.made is not None) == (extension() is not None)


CHANGES = {
    "a weight": lambda m: m.model.layers[1].mlp.up_proj.weight.data[0].mul_(1.5),
    "a buffer": lambda m: m.model.rotary_emb.inv_freq.mul_(0.5),
    "a setting of a module": lambda m: setattr(m.model.layers[0].self_attn, "scaling", 0.3),
    "the configuration": lambda m: setattr(m.config, "rms_norm_eps", 1e-3),
    "a type": lambda m: m.model.layers[0].mlp.to(torch.float64),
    "a layer": lambda m: m.model.layers.__delitem__(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_model_that_changed_is_probed_anew(tiny_llama, probed, change):
    written(tiny_llama(**SHAPE))
    other = tiny_llama(**SHAPE)
    change(other)
    with contextlib.suppress(RuntimeError, everlong.EverlongError):
        everlong.attach(other, everlong.Sinks(sinks=2, window=20)).detach()
    assert len(probed) == 2


def test_sources_and_versions_count(tiny_llama, probed, monkeypatch):
    written(tiny_llama(**SHAPE))
    monkeypatch.setattr(kept, "versions", lambda: {"torch": "0"})
    written(tiny_llama(**SHAPE))
    monkeypatch.setattr(kept, "_sources", lambda model: ["another time"])
    written(tiny_llama(**SHAPE))
    assert len(probed) == 3


def test_a_function_of_the_models_code_that_another_stands_in_for_counts(tiny_llama, probed, monkeypatch):
    written(tiny_llama(**SHAPE))
    from transformers.models.llama import modeling_llama

    turn = modeling_llama.apply_rotary_pos_emb

    def stand_in(*args, **kwargs):
        return turn(*args, **kwargs)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", stand_in)
    written(tiny_llama(**SHAPE))
    assert len(probed) == 2


def test_a_model_with_hooks_or_a_forward_of_its_own_is_not_served(tiny_llama, probed):
    written(tiny_llama(**SHAPE))
    hooked = tiny_llama(**SHAPE)
    hooked.model.layers[0].register_forward_pre_hook(lambda *args: None)
    written(hooked)
    own = tiny_llama(**SHAPE)
    forward = own.model.layers[0].mlp.forward
    own.model.layers[0].mlp.forward = lambda x: forward(x)
    written(own)
    assert len(probed) == 3


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:99] + b"x" + b[100:], lambda b: b""])
def test_a_damaged_file_is_made_again(tiny_llama, probed, folder, damage):
    first = written(tiny_llama(**SHAPE))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(written(tiny_llama(**SHAPE)), first)
    assert len(probed) == 2
    assert len(file.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_none(tiny_llama, probed, folder):
    folder.write_text("a file where the folder would be")
    assert torch.equal(written(tiny_llama(**SHAPE)), written(tiny_llama(**SHAPE)))
    assert len(probed) == 2


def test_a_model_changed_after_it_was_attached_runs_as_it_is_now(tiny_llama, probed):
    written(tiny_llama(**SHAPE))
    model = tiny_llama(**SHAPE)
    before = written(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    changed = written(model)
    assert not torch.allclose(before, changed)
    assert torch.allclose(changed, written(copy.deepcopy(model)), atol=1e-4)


def test_small_models_are_not_kept(tiny_llama, folder, monkeypatch):
    monkeypatch.setattr(kept, "FEWEST_WEIGHTS", 1 << 20)
    written(tiny_llama(**SHAPE))
    assert not folder.exists()
