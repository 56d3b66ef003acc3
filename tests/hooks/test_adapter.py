"""A trained memory as files: put on a model, refused for another, guarded when merged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import everlong
from everlong.errors import LoadError
from everlong.hooks.adapter import put_memory, write_memory, write_model
from everlong.hooks.training import attach_training
from tests.models.tiny import save_folder

METHOD = everlong.Infini(segment=8, update="delta", beta=0.5)


@pytest.fixture
def trained(tmp_path):
    """A tiny model folder and a folder with a memory for it, whose gates were moved."""
    base = save_folder(tmp_path / "base")
    loaded = everlong.load(base)
    with attach_training(loaded.model, METHOD) as training, torch.no_grad():
        training.parameters.beta.copy_(torch.arange(8.0).view(2, 4) - 4)
    write_memory(loaded.model, METHOD, tmp_path / "memory")
    return base, tmp_path / "memory", replace(loaded, method=METHOD)


def predicted(loaded):
    with everlong.Session(loaded, loaded.method) as session:
        session.feed(torch.arange(40) + 20)
        return session.prediction


def test_a_memory_comes_back_with_its_method_and_gates(trained):
    base, memory, original = trained
    loaded = everlong.load(base, memory=memory)
    assert loaded.method == METHOD
    assert torch.equal(loaded.model.model.everlong_memory.beta, torch.arange(8.0).view(2, 4) - 4)
    assert torch.equal(predicted(loaded), predicted(original))
    assert everlong.load(base).method is None


def test_a_folder_with_model_and_memory_loads_with_both(trained, tmp_path):
    *_, original = trained
    write_model(original, tmp_path / "both")
    loaded = everlong.load(tmp_path / "both")
    assert loaded.method == METHOD
    assert torch.equal(predicted(loaded), predicted(original))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "both") is not None


def test_a_merged_folder_loads_only_here(trained, tmp_path):
    *_, original = trained
    write_model(original, tmp_path / "merged", merged=True)
    assert torch.equal(predicted(everlong.load(tmp_path / "merged")), predicted(original))
    with pytest.raises((ValueError, KeyError), match="everlong_memory"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert "everlong.load" in json.loads((tmp_path / "merged" / "config.json").read_text())["needs"]


def test_what_does_not_fit_is_refused_in_one_line(trained, tmp_path):
    base, memory, original = trained
    other = save_folder(tmp_path / "other", seed=1)
    wider = save_folder(tmp_path / "wider", intermediate_size=64)
    for folder, model, message in [
        (tmp_path, base, "no memory_config.json in this folder"),
        (memory, other, "other weights of this model"),
        (memory, wider, "for another model"),
    ]:
        with pytest.raises(LoadError, match=message) as error:
            everlong.load(model, memory=folder)
        assert "\n" not in str(error.value)
    weights = memory / "memory.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(LoadError, match="cannot be read"):
        everlong.load(base, memory=memory)
    (memory / "memory_config.json").write_text("{}")
    with pytest.raises(LoadError, match="not a memory's configuration"):
        everlong.load(base, memory=memory)
    assert not hasattr(everlong.load(base).model.model, "everlong_memory")
    with pytest.raises(LoadError, match="carries none"):
        write_memory(everlong.load(base).model, METHOD, tmp_path / "none")
    assert original.method == METHOD


def test_a_memory_with_wrong_numbers_is_refused(trained):
    from safetensors.torch import save_file

    base, memory, _ = trained
    for beta, message in [(torch.full((2, 4), torch.nan), "not finite"), (torch.zeros(2, 5), "holds")]:
        save_file({"beta": beta}, memory / "memory.safetensors")
        with pytest.raises(LoadError, match=message):
            everlong.load(base, memory=memory)


def test_a_model_that_does_not_come_with_everlong_is_named():
    with pytest.raises(LoadError, match="no such model comes with everlong"):
        everlong.load("everlong/nothing")


def test_the_method_of_another_memory_is_refused(trained):
    base, memory, _ = trained
    loaded = everlong.load(base)
    put_memory(loaded.model, memory)
    loaded.model.model.everlong_memory.method = "other"
    with pytest.raises(everlong.EverlongError, match="was trained for other"):
        everlong.Session(loaded, METHOD)
