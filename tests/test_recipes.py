"""The recipes that ship: every key is an option, every line says what it is for, and a model runs with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlong.cli.app import app
from everlong.config import load_yaml
from everlong.evaluate.plan import Plan, entries
from everlong.evaluate.task import task_names
from everlong.methods import make_method, method_names
from everlong.train.recipe import read_recipe
from tests.models.tiny import save_folder

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
TRAININGS = sorted((Path(__file__).parents[1] / "recipes" / "train").glob("*.yaml"))
EVALUATIONS = sorted((Path(__file__).parents[1] / "recipes" / "eval").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_key_has_a_comment_and_every_field_exists(recipe: Path):
    lines = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(line in ("method:", "  name: blocks") or "  # " in line for line in lines)
    fields = dict(load_yaml(recipe)["method"])
    assert str(make_method(fields.pop("name"), fields)).startswith("blocks")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_model_writes_and_talks_with_it(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERLONG_HOME", str(tmp_path / "home"))
    model = save_folder(tmp_path / "tiny", max_position_embeddings=256)
    common = ["--config", str(recipe), "--model", str(model), "--max-new-tokens", "4", "--json", "--threads", "1"]
    written = CliRunner().invoke(app, ["generate", "--prompt", "one two three", *common], catch_exceptions=False)
    assert json.loads(written.output)["report"]["method"].startswith("blocks")
    talked = CliRunner().invoke(app, ["chat", *common], input="hello\nagain\n", catch_exceptions=False)
    answers = [json.loads(line) for line in talked.output.splitlines() if line.startswith("{")]
    assert [answer["report"]["method"].partition("(")[0] for answer in answers] == ["blocks", "blocks"]
    assert talked.exit_code == written.exit_code == 0


@pytest.mark.parametrize("recipe", EVALUATIONS, ids=lambda path: path.stem)
def test_an_evaluation_names_tasks_and_methods_that_exist(recipe: Path):
    content = load_yaml(recipe)
    found = entries(content.pop("tasks"), content.pop("methods"))
    assert Plan(found, **content).as_dict()["model"] == "smollm2"
    missing = set(task_names()) - {entry.task.name for entry in found}
    unofficial = {"locomo", "longmemeval"}
    without_lengths = unofficial | {"longbench", "infinitebench"}
    assert missing <= {"quick": unofficial, "lengths": without_lengths, "full": set()}[recipe.stem]
    names = {subject.name for entry in found for subject in entry.subjects}
    assert {"transformers", "sinks", "blocks"} <= names


def test_the_quick_evaluation_runs_every_method():
    content = load_yaml(EVALUATIONS[-1])
    found = entries(content["tasks"], content["methods"])
    assert {s.name for entry in found for s in entry.subjects} == {*method_names(), "transformers"}


@pytest.mark.parametrize("recipe", TRAININGS, ids=lambda path: path.stem)
def test_every_training_recipe_can_be_read(recipe: Path):
    given = read_recipe(recipe)
    assert given.steps == sum(stage.steps for stage in given.stages) > 0
    assert all(stage.tasks() for stage in given.stages)
