"""The benchmarks of trained memories: their counts and errors, and a whole run in small."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import everlong
from tests.conftest import ROOT, tiny_random_llama
from tests.models.tiny import save_folder
from tests.train.made import books


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark as `python benchmarks/NAME.py` does."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def small(trained_perplexity: ModuleType, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of four steps, two methods, and texts of 100 tokens."""
    recipe = yaml.safe_load(trained_perplexity.RECIPE.read_text(encoding="utf-8"))
    recipe["scratch"]["vocabulary"] = 300
    recipe["scratch"]["llama"] |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    recipe["stages"][0] |= {"steps": 4, "batch": 2, "length": 64}
    recipe |= {"checkpoint_every": 4, "log_every": 2, "held_out": 1}
    path = work / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    window = {"name": "transformer_xl", "segment": 16, "memory": "off"}
    infini = {"name": "infini", "segment": 8, "local": "xl", "beta": 0.0}
    changed = {
        "RECIPE": path,
        "METHODS": {"window": window, "transformer_xl, faithful": window | {"memory": "on"}, "infini, linear": infini},
        "FIRST": 32,
        "LAST": 100,
        "CHUNK": 32,
    }
    monkeypatch.setattr("paired.PIECE", 17)
    for name, value in changed.items():
        monkeypatch.setattr(trained_perplexity, name, value)


@pytest.mark.heavy(reason="trains three tiny models, each as the benchmark does")
def test_trained_perplexity_trains_reads_and_goes_on_where_it_was(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained_perplexity = script("trained_perplexity")
    small(trained_perplexity, tmp_path, monkeypatch)
    monkeypatch.setenv("EVERLONG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERLONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVERLONG_DATA", "")
    for folder in ("train_books", "pg19", "books"):
        books(tmp_path / "data" / folder)
    (tmp_path / "data" / "pg19" / "777_also-a-training-book.txt").write_text("x" * 4000, encoding="utf-8")
    (tmp_path / "data" / "train_books" / "777.txt").write_text("Who saw it? " * 400, encoding="utf-8")
    math_folder = tmp_path / "data" / "math"
    math_folder.mkdir()
    (math_folder / "a.tex").write_text(r"$x_1 + y^2$ rose and fell. " * 100, encoding="utf-8")
    given = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["trained_perplexity.py", *given, "--only", "window"])
    trained_perplexity.main()
    assert not (tmp_path / "out.json").exists()
    done = (tmp_path / "runs" / "window" / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", ["trained_perplexity.py", *given])
    trained_perplexity.main()
    assert (tmp_path / "runs" / "window" / "result.json").stat().st_mtime_ns == done
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    for row in record["rows"].values():
        assert all(1 < x < 400 for x in row["perplexity"].values())
        assert row["tokens"] == {"pg19/*.txt": 3 * 68, "books/*.txt": 3 * 68, "math/*.tex": 68}
    assert record["rows"]["window"]["memory_numbers"] == 0
    assert record["rows"]["infini, linear"]["memory_numbers"] == 2 * 4 * 8 * 9
    rows = record["rows"]
    assert [sorted(row["on_over"]) for row in rows.values()] == [[], ["off"], ["off", "reset:16", "zeroed"]]
    assert 0.5 < rows["infini, linear"]["on_over"]["zeroed"]["books/*.txt"]["ratio"] < 2
    found = record["ratios"]["infini, linear / window"]["math/*.tex"]["ratio"]
    assert found == pytest.approx(
        rows["infini, linear"]["perplexity"]["math/*.tex"] / rows["window"]["perplexity"]["math/*.tex"], rel=1e-3
    )


def test_memory_numbers_of_infini_are_what_it_keeps(script: Any):
    model = tiny_random_llama()
    numbers, _ = script("trained_perplexity").memory_numbers("infini, linear", model.config)
    with everlong.attach(model, everlong.Infini(segment=8)) as handle:
        cache = handle.new_cache()
        model(torch.arange(1, 40)[None], past_key_values=cache)
        assert cache.stream.memory.planned_bytes(1) == cache.stream.memory.account(1).bytes["device"] == 4 * numbers


def test_ratio_and_error_of_paired_differences(script: Any):
    paired = script("paired")
    same = paired.ratio(torch.full((4 * paired.PIECE,), math.log(1.5)).double())
    assert same == {"ratio": 1.5, "error": 0.0}
    moving = torch.cat([torch.full((paired.PIECE,), x) for x in (0.1, 0.3)]).double()
    assert paired.standard_error(moving) == pytest.approx(0.1)
    assert paired.ratio(moving)["ratio"] == pytest.approx(math.exp(0.2), abs=1e-4)


def test_converted_perplexity_reads_before_and_after(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    converted_perplexity = script("converted_perplexity")
    for folder in ("pg19", "books"):
        books(tmp_path / "data" / folder)
    (tmp_path / "data" / "math").mkdir()
    (tmp_path / "data" / "math" / "a.tex").write_text("The sky is blue. The grass is green. " * 300, encoding="utf-8")
    name = "everlong/infini-passkey"
    options = {
        "--model": name,
        "--converted": name,
        "--files": "1",
        "--tokens": "1100",
        "--data": str(tmp_path / "data"),
    }
    options["--out"] = str(tmp_path / "out.json")
    monkeypatch.setattr(sys, "argv", ["converted_perplexity.py", *(part for pair in options.items() for part in pair)])
    converted_perplexity.main()
    record = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert record["tokens"]["math"] == 1100 - converted_perplexity.FIRST
    assert record["perplexity"]["before"] == record["perplexity"]["after"]  # one model is both here
    assert record["ratios"]["after, off / before, off"]["math"] == {"ratio": 1.0, "error": 0.0}
    assert record["ratios"]["after / after, off"]["math"]["ratio"] != 1


def test_packed_streams_are_timed_beside_single_ones(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed = script("packed")
    small = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "exec_chunk": 32, "pool": 8, "recall": "layer"}
    methods = {"sinks": (everlong.Sinks(sinks=2, window=20), 1), "blocks": (everlong.Blocks(**small), 2)}
    monkeypatch.setattr(packed, "METHODS", methods)
    out = tmp_path / "packed.json"
    arguments = ["--model", str(save_folder(tmp_path / "m")), "--tokens", "40", "--streams", "3", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["packed.py", *arguments, "--out", str(out)])
    packed.main()
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["read_before"] for row in rows] == [40, 80]
    assert all(row["alone_ms"] > 0 and row["packed_ms"] > 0 and row["ratio"] > 0 for row in rows)
