"""LoRA in a recipe: the model starts as it was, its weights stay, and the result has the updates in them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

import everlong
from everlong.errors import ConfigError
from everlong.train.lora import add_lora, merge_lora
from everlong.train.recipe import read_recipe
from everlong.train.run import train
from tests.conftest import tiny_random_llama
from tests.models.tiny import save_folder
from tests.train.made import books

peft = pytest.importorskip("peft", reason="the extra everlong[train] is not installed")
LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
IDS = torch.arange(1, 40)[None]


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def recipe(tmp_path, **changes):
    books(tmp_path / "books")
    given = {
        "model": str(save_folder(tmp_path / "m")),
        "method": {"name": "delta", "segment": 16, "degree": 1, "projections": "none"},
        "lora": LORA,
        "optimiser": {"lr": 3e-2, "warmup_steps": 1},
        "stages": [{"steps": 4, "batch": 2, "length": 64, "data": {"books": {"data": str(tmp_path / "books")}}}],
        "checkpoint_every": 2,
        "log_every": 1,
        "held_out": 1,
        "cache": str(tmp_path / "cache"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(given | changes))
    return path


def test_it_starts_as_the_model_was_and_ends_in_its_weights():
    model = tiny_random_llama()
    before = logits(model)
    names = {name for name, _ in model.named_parameters()}
    add_lora(model, LORA, 0)
    assert torch.equal(logits(model), before)
    trained = {name for name, x in model.named_parameters() if x.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name in trained:
            model.get_parameter(name).normal_()
    moved = logits(model)
    assert not torch.allclose(moved, before)
    merge_lora(model)
    assert {name for name, _ in model.named_parameters()} == names
    torch.testing.assert_close(logits(model), moved, rtol=1e-4, atol=1e-4)


def test_a_run_trains_updates_and_memory_and_leaves_a_plain_model(tmp_path):
    path = recipe(tmp_path)
    train(read_recipe(path), tmp_path / "run")
    before = everlong.load(tmp_path / "m", dtype="float32").model.state_dict()
    loaded = everlong.load(tmp_path / "run" / "model", dtype="float32")
    after = loaded.model.state_dict()
    moved = {name for name, x in before.items() if not torch.equal(x, after[name])}
    assert moved
    assert all("q_proj" in name or "v_proj" in name for name in moved)
    assert not any("lora" in name for name in after)
    assert any(x.abs().max() > 0 for name, x in after.items() if name.endswith("everlong_memory.s"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ablation"]["on"]["loss"] != result["ablation"]["off"]["loss"]


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    given = read_recipe(recipe(tmp_path))
    train(given, whole)
    train(given, halved)
    (halved / "result.json").unlink()
    last = max(halved.glob("checkpoint-*"), key=lambda x: int(x.name.split("-")[1]))
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    train(given, halved, resume=True)
    one, two = (everlong.load(x / "model", dtype="float32").model.state_dict() for x in (whole, halved))
    for name, x in one.items():
        torch.testing.assert_close(two[name], x)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": "memory"}, r"lora: has no place beside train: memory; leave one of the two out"),
        ({"lora": {"rank": 2}}, r"lora: .*rank.*; see PEFT's LoraConfig"),
        ({"lora": {"target_modules": ["nothing"]}}, r"lora: .*nothing.*; see PEFT's LoraConfig"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        train(read_recipe(recipe(tmp_path, **changes)), tmp_path / "run")
