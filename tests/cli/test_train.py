"""`everlong train`, `merge`, and a model whose trained memory the other commands find by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

RECIPE = {
    "method": {"name": "infini", "segment": 32, "update": "delta", "beta": 0.0},
    "scratch": {
        "llama": {
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
        }
    },
    "stages": [{"steps": 2, "batch": 2, "length": 128, "data": {"passkey": {"opening": "either"}}}],
    "checkpoint_every": 100,
    "log_every": 1,
    "held_out": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run."""
    from everlong.train.recipe import read_recipe
    from everlong.train.run import train

    folder = tmp_path_factory.mktemp("trained")
    (folder / "asked.yaml").write_text(yaml.safe_dump(RECIPE))
    train(read_recipe(folder / "asked.yaml"), folder / "run")
    return folder / "run"


def test_a_run_says_what_it_wrote(everlong, tmp_path):
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(RECIPE))
    ended = everlong("train", str(tmp_path / "asked.yaml"), "--out", str(tmp_path / "run"))
    assert ended.code == 0, ended.err
    assert "memory" in ended.out
    assert "share of the memory by layer and head" in ended.out
    assert "step 2/2" in ended.err
    assert "grad_norm" not in ended.out
    assert f"--model {tmp_path / 'run' / 'model'}" in ended.err
    assert (tmp_path / "run" / "training.png").stat().st_size > 5000
    again = everlong("train", str(tmp_path / "asked.yaml"), "--out", str(tmp_path / "run"))
    assert again.code == 2
    assert "--resume" in again.err


def test_the_memory_of_a_model_is_the_default_method(everlong, trained, tmp_path):
    arguments = ("eval", "passkey", "--lengths", "200", "--depths", "0.5", "--model", str(trained / "model"), "--json")
    ended = everlong(*arguments, "--out", str(tmp_path / "on"))
    assert ended.code == 0, ended.err
    assert [(row["method"], row["n"]) for row in ended.json] == [("infini", 1)]
    settings = json.loads((tmp_path / "on" / "records.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["segment"], settings["update"], settings["memory"]) == (32, "delta", "on")
    ended = everlong(*arguments, "-o", "memory=off", "--out", str(tmp_path / "off"))
    settings = json.loads((tmp_path / "off" / "records.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["segment"], settings["memory"]) == (32, "off")
    ended = everlong(*arguments, "--method", "window", "-o", "window=9", "--out", str(tmp_path / "window"))
    assert [row["method"] for row in ended.json] == ["window"]


def test_other_commands_take_the_memory_too(everlong, trained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The grass is green. The sky is blue. " * 40)
    scored = everlong("score", str(text), "--model", str(trained / "model"), "--json")
    assert scored.code == 0, scored.err
    assert scored.json["report"]["compressed_tokens"] > 0
    merged = everlong("merge", "--model", str(trained / "model"), "--out", str(tmp_path / "merged"), "--json")
    assert merged.code == 0, merged.err
    assert merged.json["method"]["name"] == "infini"
    same = everlong("score", str(text), "--model", str(tmp_path / "merged"), "--json")
    assert same.json["perplexity"] == scored.json["perplexity"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "none.yaml", "--out", "x"), "none.yaml"),
        (("merge", "--out", "{here}"), "exists; give a new folder"),
        (("merge", "--model", "{tiny}", "--out", "{here}/new"), "has no trained memory; add --memory"),
        (("score", "-", "--model", "{tiny}", "--memory", "{here}"), "no memory_config.json in this folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(everlong, tiny, tmp_path, arguments, message):
    ended = everlong(*(a.format(here=tmp_path, tiny=tiny) for a in arguments))
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1
