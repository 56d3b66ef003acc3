"""equal_budget: models of one size, steps that fit into the reference's time, ratios with the error of seeds."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoConfig, LlamaForCausalLM

from everlong.hooks.training import attach_training
from everlong.train.recipe import read_recipe
from tests.conftest import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("equal_budget")


def test_all_methods_have_as_many_parameters(script: Any, tmp_path: Path):
    counts = {}
    for name in script.METHODS:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(script.content_of(name, 1, 20, tmp_path)), encoding="utf-8")
        recipe = read_recipe(path)
        assert recipe.scratch is not None
        config: Any = AutoConfig.for_model("llama", **(dict(recipe.scratch.llama) | {"vocab_size": 2048}))
        model = LlamaForCausalLM(config)
        with attach_training(model, recipe.method_of()):
            counts[name] = sum(p.numel() for p in model.parameters())
    assert max(counts.values()) <= 1.01 * min(counts.values()), counts


def test_equal_time_is_that_of_the_reference(script: Any):
    spent = {(script.REFERENCE, 2): {"cpu_s": 60.0}, ("delta, decay", 2): {"cpu_s": 90.0}}
    assert script.steps_of("tokens", "delta, decay", 2, 120, spent) == 120
    assert script.steps_of("time", "delta, decay", 2, 120, spent) == 80


def test_ratios_are_means_over_seeds_with_their_error(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nll = {"a1": 1.0, "a2": 1.2, "b1": 1.0, "b2": 1.0}
    monkeypatch.setattr(
        script,
        "scored",
        lambda run, _: {"on": {g: torch.full((2048,), nll[run.name]).double() for g in script.TEXTS}},
    )
    one, other = ([tmp_path / f"{name}{seed}" for seed in (1, 2)] for name in "ab")
    found = script.over(one, other, tmp_path)["pg19"]
    assert found["ratio"] == pytest.approx(math.exp(0.1))
    assert found["error_of_seeds"] == pytest.approx(math.exp(0.1) * 0.1)
    assert script.over(one[:1], other[:1], tmp_path)["pg19"]["error_of_seeds"] is None
    json.dumps(found)
