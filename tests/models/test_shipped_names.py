"""The memory of named keys that comes with everlong: it says the key of the one who is asked for, and only it does."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

import everlong
from everlong.models.load import model_folder
from everlong.text.haystack import NAMES, NOISE, OPENING, key_needle, key_question
from everlong.train.recipe import read_recipe

NAME = "everlong/delta-names"
pytestmark = pytest.mark.heavy(reason="the memory that ships is held to what is said of it")


@pytest.fixture(scope="module")
def loaded():
    return everlong.load(NAME)


def right(loaded, method, tokens, seeds, needles=4):
    """For how many samples all five digits of the asked one are said, and the bytes that were held."""
    found, held = 0, set()
    for n in seeds:
        rng = random.Random(n)
        keys = {name: str(rng.randrange(10_000, 100_000)) for name in rng.sample(NAMES, needles)}
        parts = [NOISE * (tokens // 25 // (needles + 1))] * (needles + 1)
        told = "".join(part + key_needle(*pair) for part, pair in zip(parts, keys.items(), strict=False))
        asked = rng.choice(list(keys))
        with everlong.Session(loaded, method, chunk=2048) as session:
            session.feed(OPENING + told + parts[-1])
            held.add(session.report().bytes["device"])
            said = session.generate(key_question(asked), max_new_tokens=8).text
        found += said.strip().startswith(keys[asked])
    return found, held


def test_it_is_small_and_says_how_it_was_made():
    folder = model_folder(NAME)
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 1_000_000
    assert {"README.md", "recipe.yaml", "metrics.jsonl", "result.json"} <= {f.name for f in folder.iterdir()}
    recipe = Path(__file__).parents[2] / "recipes" / "train" / "delta-names.yaml"
    if recipe.is_file():
        assert read_recipe(recipe) == read_recipe(folder / "recipe.yaml")
    ablation = json.loads((folder / "result.json").read_text())["ablation"]
    assert ablation["on"]["answers"] > 0.9
    assert all(ablation[control]["answers"] < 0.1 for control in ("off", "zeroed", "reset:256"))


def test_it_knows_whose_and_its_memory_does(loaded):
    found, short = right(loaded, loaded.method, 4096, range(4))
    assert found >= 3
    for control in ("off", "reset:256"):
        assert right(loaded, replace(loaded.method, memory=control), 2048, range(3))[0] == 0
    found, long = right(loaded, loaded.method, 12_288, range(1), needles=2)
    assert found == 1
    assert short == long
