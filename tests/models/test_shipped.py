"""The memory that comes with everlong: it finds the key, only its memory does, and its size never changes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

import everlong
from everlong.errors import LoadError
from everlong.models.load import model_folder
from everlong.text.haystack import NOISE, PAPER_OPENING, key_needle, key_question

NAME = "everlong/infini-passkey"


pytestmark = pytest.mark.heavy(reason="the one memory that ships is held to what is said of it, at full length")


@pytest.fixture(scope="module")
def loaded():
    return everlong.load(NAME)


def answers(loaded, method, tokens, seeds):
    """Whether all five digits are said, and the bytes that were held, for keys at depths spread over 0 to 1."""
    found = []
    for n in seeds:
        key, repeats = str(random.Random(n).randrange(10_000, 100_000)), tokens // 25
        before = round(repeats * (n % len(seeds) + 0.5) / len(seeds))
        with everlong.Session(loaded, method, chunk=2048) as session:
            session.feed(PAPER_OPENING + NOISE * before + key_needle("", key) + NOISE * (repeats - before))
            held = session.report().bytes["device"]
            said = session.generate(key_question(""), max_new_tokens=8).text
        found.append((said.strip().startswith(key), held))
    return [right for right, _ in found], {held for _, held in found}


def test_it_is_small_and_says_how_it_was_made():
    folder = model_folder(NAME)
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 1_000_000
    assert {"README.md", "recipe.yaml", "metrics.jsonl", "result.json"} <= {f.name for f in folder.iterdir()}
    recipe = Path(__file__).parents[2] / "recipes" / "train" / "infini-passkey.yaml"
    if recipe.is_file():
        from everlong.train.recipe import read_recipe

        assert read_recipe(recipe) == read_recipe(folder / "recipe.yaml")
    result = json.loads((folder / "result.json").read_text())
    assert result["ablation"]["on"]["answers"] > result["ablation"]["off"]["answers"]


def test_the_memory_and_nothing_else_finds_the_key(loaded):
    right, _ = answers(loaded, loaded.method, 4096, range(10))
    assert sum(right) >= 9
    for control in ("off", "zeroed"):
        right, _ = answers(loaded, replace(loaded.method, memory=control), 4096, range(10))
        assert sum(right[:9]) == 0  # the tenth key stands near the question


def test_eight_times_as_far_and_the_same_bytes(loaded):
    right, held = answers(loaded, loaded.method, 32_768, range(5))
    assert sum(right) >= 4
    assert held == answers(loaded, loaded.method, 65_536, [3])[1]


def test_other_names_are_refused():
    with pytest.raises(LoadError, match="everlong/infini-passkey"):
        everlong.load("everlong/infini-passkeys")
