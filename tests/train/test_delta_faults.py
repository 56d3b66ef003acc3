"""Named keys are learned within 100 short steps, and not when one of the three remedies is left out (trained forms)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everlong.methods.delta import maps
from everlong.train.recipe import read_recipe
from everlong.train.run import train

RECIPE = Path(__file__).parents[2] / "recipes" / "train" / "delta-names.yaml"
STEPS = 100


def digits(folder, **method):
    """The share of digits right of held-out samples after the first stage of the recipe, shortened."""
    recipe = read_recipe(RECIPE)
    stage = replace(recipe.stages[0], steps=STEPS)
    recipe = replace(recipe, stages=[stage], method=dict(recipe.method) | method, held_out=20)
    return train(recipe, folder)["ablation"]


def by_chance(untrained):
    """The start without the induction head: taps of keys and queries, and W_k, drawn for themselves, as spread."""

    def drawn(*args):
        given = untrained(*args)
        names = ("taps_q", "taps_k", "W_k")
        return given | {name: torch.randn(given[name].shape) * given[name].std() for name in names}

    return drawn


@pytest.mark.slow(reason="three short trainings; `make test` shows the faults where nothing is trained")
def test_each_remedy_is_needed(tmp_path, monkeypatch):
    whole = digits(tmp_path / "whole")
    assert whole["on"]["digits"] > 0.95
    assert all(whole[control]["digits"] < 0.5 for control in ("off", "zeroed", "reset:64"))
    assert digits(tmp_path / "degree", degree=1)["on"]["digits"] < 0.9
    monkeypatch.setattr(maps, "untrained", by_chance(maps.untrained))
    assert digits(tmp_path / "chance")["on"]["digits"] < 0.75
