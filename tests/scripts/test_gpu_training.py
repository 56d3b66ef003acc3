"""gpu_training: what is planned, in which order it may begin, how many steps are agreed on, and what is summed up."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import everlong.train.run  # noqa: F401  (what the scripts import takes seconds, which are no test's)
from everlong.train.recipe import FromScratch, Stage
from tests.conftest import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_training")


@pytest.fixture
def args(script: Any, tmp_path: Path) -> argparse.Namespace:
    for folder in ("out", "work"):
        (tmp_path / folder).mkdir()
    return argparse.Namespace(
        data=tmp_path / "data",
        work=tmp_path / "work",
        out=tmp_path / "out",
        methods=";".join(script.TABLE[:2]),
        seeds="1,2",
        tokens=52_428_800,
        batch=32,
        scale=1.0,
        gpu_jobs=3,
        cpu_jobs=2,
        device="cpu",
    )


def planned(script: Any, args: argparse.Namespace) -> Any:
    plan = script.Plan(args, time.time() + 300)
    for part in (script.table_jobs, script.natural_jobs, script.names_jobs):
        part(plan)
    return plan


def test_every_recipe_is_one_and_every_question_has_its_model(script: Any, args: argparse.Namespace, monkeypatch: Any):
    monkeypatch.setenv("EVERLONG_DATA", "x")
    plan = planned(script, args)
    names = [job.name for job in plan.jobs]
    assert len(set(names)) == len(names)
    trainings = {job.name for job in plan.jobs if not job.after}
    assert {job.after for job in plan.jobs if job.after} <= trainings
    assert {"table-delta-decay-1", "table-transformer_xl-faithful-2", "natural-2", "names-3", "names8-1"} <= trainings
    for name in trainings:
        job = json.loads((args.out / name / "job.json").read_text(encoding="utf-8"))
        assert job["stop_at"] < plan.end
        FromScratch(**job["recipe"]["scratch"])
        stages = [Stage(**stage) for stage in job["recipe"]["stages"]]
        if job["kind"] == "table":
            assert [(s.steps, s.batch, s.length) for s in stages] == [(800, 32, 2048)]
    million = [job for job in plan.jobs if "1M" in job.name]
    assert len(million) == 2 * 3 * 5


def test_steps_are_those_that_the_slowest_can_take(script: Any, args: argparse.Namespace):
    plan = planned(script, args)
    first = [job.name for job in plan.jobs if job.name.startswith("table-")][:3]
    for name, seconds in zip(first[:2], (0.1, 0.5), strict=True):
        (args.out / name / "probe.json").write_text(json.dumps({"seconds_per_step": seconds}), encoding="utf-8")
    assert not script.agree(plan)  # one has not said yet
    (args.out / first[2] / "probe.json").write_text('{"seconds_per_step": 0.2}', encoding="utf-8")
    assert script.agree(plan)
    agreed = json.loads((args.out / "steps.json").read_text(encoding="utf-8"))
    assert agreed["steps"] == pytest.approx(
        0.85 * (300 - script.LEFT_S["table"]) / 2 / 0.5, abs=2
    )  # two rounds: 4 on 3
    assert (agreed["wanted"], agreed["slowest_s"]) == (800, 0.5)


def test_what_is_done_is_not_begun_again_and_all_is_summed_up(script: Any, args: argparse.Namespace):
    asked = args.out / "names-1" / "asked" / "2keys-32K"
    asked.mkdir(parents=True)
    (asked / "records.jsonl").write_text('{"score": 1.0}\n{"score": 0.0}\n{"score": 1', encoding="utf-8")
    (asked / "summary.json").write_text("{}", encoding="utf-8")
    (args.out / "names-1" / "found.json").write_text('{"steps": 5}', encoding="utf-8")
    plan = planned(script, args)
    done = {job.name for job in plan.jobs if job.code == 0}
    assert done == {"names-1", "names-1/2keys-32K"}
    script.summary(plan)
    found = json.loads((args.out / "summary.json").read_text(encoding="utf-8"))
    assert found["asked"] == {"names-1/2keys-32K": {"right": 1.0, "n": 2}}
    assert found["trained"] == {"names-1": {"steps": 5}}


def test_processes_begin_in_order_and_end_with_the_time(
    script: Any, args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
):
    def sleeping(seconds: float) -> list[str]:
        return [sys.executable, "-c", f"import time; time.sleep({seconds})"]

    plan = script.Plan(args, time.time() + 4)
    plan.jobs = [
        script.Job("one", sleeping(0), gpu=False),
        script.Job("one/asked", sleeping(0), gpu=False, after="one"),
        script.Job("never/asked", sleeping(0), gpu=False, after="never"),
        script.Job("long", sleeping(60), gpu=True),
    ]
    monkeypatch.setattr(script, "__file__", str(args.out / "prepare.py"))
    (args.out / "prepare.py").write_text("", encoding="utf-8")
    script.run_all(plan)
    assert [job.code for job in plan.jobs] == [0, 0, None, None]
    assert plan.jobs[2].process is None
    assert plan.jobs[3].process.wait(10) != 0
