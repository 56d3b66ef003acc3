"""The files of retrieval heads: found by the weights whatever their type, whole or refused, this machine's first."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from everlong.environment import home
from everlong.errors import ConfigError, LoadError, SaveError
from everlong.models import retrieval_heads
from everlong.models.retrieval_heads import KEPT, RetrievalHeads, find, key, place, read, save

HEADS = RetrievalHeads(
    ((1, 3), (0, 2), (1, 0)), (0.9, 0.5, 0.25), 0.75, 0.5, 32, 4096, 7, "tiny", "abc", "2026-11-26", (("torch", "2.9"),)
)


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_was_saved_is_found_again(tiny_llama, empty_home):
    model = tiny_llama()
    assert find(model) is None
    assert home() == empty_home
    written = save(HEADS, place(model))
    assert written == empty_home / "heads" / f"{key(model)}.json"
    assert find(model) == HEADS
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_another_home_has_none_of_them(tiny_llama, tmp_path, monkeypatch):
    model = tiny_llama()
    save(HEADS, place(model))
    monkeypatch.setenv("EVERLONG_HOME", str(tmp_path / "other"))
    assert find(model) is None


def test_the_key_is_of_the_weights_and_not_of_their_type(tiny_llama):
    stored = tiny_llama(seed=1).to(torch.bfloat16)
    wide = tiny_llama(seed=1)
    assert key(stored) == key(wide)
    wide.load_state_dict({name: weight.float() for name, weight in stored.state_dict().items()})
    assert key(stored) == key(wide)
    assert len({key(tiny_llama(seed=1)), key(tiny_llama(seed=2)), key(tiny_llama(seed=1, rope_theta=500.0))}) == 3


def test_a_trained_memory_does_not_change_the_key(tiny_llama):
    model = tiny_llama()
    before = key(model)
    model.model.add_module("everlong_memory", torch.nn.Linear(3, 3))
    assert key(model) == before


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"heads": [[0, 1]], "scores": [1.0]}',
        '{"heads": [[0, 1]], "scores": [], "format": 1}',
        '{"heads": [], "scores": [], "format": 1}',
        '{"heads": [[0]], "scores": [1.0], "format": 1}',
        '{"heads": [["a", 1]], "scores": [1.0], "format": 1}',
        '{"heads": [[0, 1]], "scores": [1.0], "format": 2}',
        '{"heads": [[0, 1]], "scores": [1.0], "format": 1, "more": 1}',
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(tiny_llama, content):
    path = place(tiny_llama())
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(LoadError, match=f"{path}: .*remove it and run `everlong calibrate`"):
        find(tiny_llama())


def test_a_file_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="EVERLONG_HOME"):
        save(HEADS, tmp_path / "file" / "heads.json")
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(SaveError, match=r"taken\.json"):
        save(HEADS, tmp_path / "taken.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.json"]


def test_fewer_heads_are_the_best_of_them():
    assert HEADS.best(2) == replace(HEADS, heads=((1, 3), (0, 2)), scores=(0.9, 0.5))
    for count in (0, 4):
        with pytest.raises(ConfigError, match=f"recall_heads={count}: .*3 calibrated heads"):
            HEADS.best(count)


def test_this_machines_file_comes_before_the_shipped_one(tiny_llama, tmp_path, monkeypatch):
    model = tiny_llama()
    shipped = tmp_path / "shipped"
    save(replace(HEADS, key=key(model)), shipped / "tiny.json")
    monkeypatch.setattr(retrieval_heads, "_SHIPPED", shipped)
    retrieval_heads._shipped.cache_clear()
    try:
        assert find(model) == replace(HEADS, key=key(model), shipped=True)
        save(HEADS, place(model))
        assert find(model) == HEADS
    finally:
        retrieval_heads._shipped.cache_clear()


def test_the_shipped_files_are_whole_and_hold_nothing_of_this_machine():
    files = sorted(retrieval_heads._SHIPPED.glob("*.json"))
    assert files
    for path in files:
        heads = read(path)
        assert len(heads.heads) == KEPT
        assert heads.recall is not None
        assert heads.recall >= 0.9
        assert "shipped" not in json.loads(path.read_text())


def test_the_default_model_comes_calibrated(smollm2):
    heads = retrieval_heads._shipped().get(key(smollm2.model))
    assert heads is not None
    assert heads.model == "smollm2"
    assert all(0 <= layer < 30 and 0 <= head < 9 for layer, head in heads.heads)
