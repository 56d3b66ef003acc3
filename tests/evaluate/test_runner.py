"""Runs: records of every sample on every method, resumed after any end, with nothing silently left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from everlong.errors import ConfigError, InputError
from everlong.evaluate.data import Data
from everlong.evaluate.folder import Folder, read_records
from everlong.evaluate.plan import Plan, entries
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import Outcome
from everlong.library.library import Library

SINKS = {"name": "sinks", "sinks": 2, "window": 20}
BLOCKS = {"name": "blocks", "sinks": 2, "window": 20, "block": 8, "top_k": 2, "exec_chunk": 16, "pool": 8}
VARYING = ("seconds", "model_s", "peak_rss_bytes")


def plan(tasks=("echo",), methods=("transformers", SINKS, BLOCKS), **shared):
    return Plan(entries(tasks, methods), model="tiny", chunk=16, **shared)


def kept(records):
    """What must be the same in each run."""
    return [{name: value for name, value in record.items() if name not in VARYING} for record in records]


def test_every_sample_on_every_method_has_a_record(echo, tiny, tmp_path):
    rows = evaluate(plan(), tiny, tmp_path)
    records = read_records(tmp_path)
    assert [(r["method"], r["id"]) for r in records] == [
        (method, f"{length}-{n}")
        for length in (20, 40)
        for n in (0, 1)
        for method in ("transformers", "sinks", "blocks")
    ]
    first, blocks = records[0], records[2]
    assert (first["task"], first["version"], first["length"], first["group"]) == ("echo", 1, 20, "part 0")
    assert (first["status"], first["score"], first["gold"]) == ("ok", 1.0, first["gold"])
    assert 20 < first["prompt_tokens"] == blocks["prompt_tokens"] < 40
    assert first["new_tokens"] == blocks["new_tokens"] == 3
    assert blocks["report"]["seen_tokens"] == blocks["prompt_tokens"] + 3
    assert 0 < first["model_s"] <= first["seconds"]
    assert first["peak_rss_bytes"] is None or first["peak_rss_bytes"] > 10**7
    assert json.loads((tmp_path / "summary.json").read_text()) == rows
    assert len(rows) == 12
    config = json.loads((tmp_path / "config.json").read_text())
    assert {"plan", "versions", "machine", "commit", "started", "data"} == set(config)


def test_a_run_goes_on_where_it_was_killed(echo, tiny, tmp_path, monkeypatch):
    whole = evaluate(plan(), tiny, tmp_path / "whole")
    calls, judge = iter(range(100)), echo.judged

    def dies(self, answer, sample):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return judge(self, answer, sample)

    monkeypatch.setattr(echo, "judged", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan(), tiny, tmp_path / "cut")
    assert len(read_records(tmp_path / "cut")) == 5
    with (tmp_path / "cut" / "records.jsonl").open("a") as file:
        file.write('{"task": "echo", "half a li')
    monkeypatch.setattr(echo, "judged", judge)
    resumed = evaluate(plan(), tiny, tmp_path / "cut")
    assert kept(read_records(tmp_path / "cut")) == kept(read_records(tmp_path / "whole"))
    assert kept(resumed) == kept(whole)


def test_a_sample_that_two_entries_have_in_common_is_run_once(echo, tiny, tmp_path):
    evaluate(plan(["echo", "echo"], [SINKS]), tiny, tmp_path)
    ids = [r["id"] for r in read_records(tmp_path)]
    assert len(ids) == len(set(ids)) == 4


def test_what_is_done_is_not_done_again(echo, tiny, tmp_path, monkeypatch):
    evaluate(plan(), tiny, tmp_path)
    monkeypatch.setattr(echo, "run", None)
    assert len(evaluate(plan(), tiny, tmp_path)) == 12


def test_a_folder_of_another_run_is_refused_and_stays(echo, tiny, tmp_path):
    evaluate(plan(limit=1), tiny, tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds a run with limit 1, got 2; give another folder"):
        evaluate(plan(limit=2), tiny, tmp_path)
    with pytest.raises(ConfigError, match="holds a run with entries"):
        evaluate(plan(methods=[SINKS], limit=1), tiny, tmp_path)
    with pytest.raises(ConfigError, match=r"holds a run with data null, got .*other"):
        evaluate(plan(limit=1), tiny, tmp_path, Data(tmp_path / "other"))
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_records_without_a_config_are_refused(echo, tiny, tmp_path):
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"has records\.jsonl without config\.json"):
        evaluate(plan(), tiny, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: not the config of a run"):
        evaluate(plan(), tiny, tmp_path)


def test_damaged_records_are_named(echo, tiny, tmp_path):
    evaluate(plan(limit=1, methods=[SINKS]), tiny, tmp_path)
    file = tmp_path / "records.jsonl"
    file.write_text("nonsense\n" + file.read_text())
    with pytest.raises(InputError, match=r"records\.jsonl: not JSON"):
        evaluate(plan(limit=1, methods=[SINKS]), tiny, tmp_path)


def test_a_second_process_is_refused(echo, tmp_path):
    with Folder(tmp_path, plan()), pytest.raises(ConfigError, match="another process writes to it"):
        Folder(tmp_path, plan())


def test_the_limit_counts_in_each_group_length_and_depth(echo, tiny, tmp_path, monkeypatch):
    evaluate(plan(limit=1, methods=[SINKS]), tiny, tmp_path / "groups")
    assert [r["id"] for r in read_records(tmp_path / "groups")] == ["20-0", "20-1", "40-0", "40-1"]
    make = echo.make_samples
    monkeypatch.setattr(echo, "make_samples", lambda self, s: (replace(x, group="") for x in make(self, s)))
    evaluate(plan(limit=1, methods=[SINKS]), tiny, tmp_path / "lengths")
    assert [r["id"] for r in read_records(tmp_path / "lengths")] == ["20-0", "40-0"]
    evaluate(plan(limit=1, skip=1, methods=[SINKS]), tiny, tmp_path / "later")
    assert [r["id"] for r in read_records(tmp_path / "later")] == ["20-1", "40-1"]


def test_a_sample_that_is_too_long_for_dense_is_recorded_as_such(echo, tiny, tmp_path):
    tasks = [{"name": "echo", "lengths": [600], "samples": 1}]
    rows = evaluate(plan(tasks, ["dense", "transformers", SINKS]), tiny, tmp_path)
    dense, stock, sinks = read_records(tmp_path)
    assert (dense["status"], dense["score"], dense["prediction"]) == ("too long", None, None)
    assert "dense attention takes 128" in dense["note"]
    assert (stock["status"], stock["prompt_tokens"]) == ("ok", sinks["prompt_tokens"])
    assert stock["truncated_tokens"] == stock["prompt_tokens"] - (128 - 3)
    assert sinks["truncated_tokens"] == 0
    assert [(r["n"], r["too_long"]) for r in rows] == [(0, 1), (1, 0), (1, 0)]


def test_a_method_that_can_not_do_it_is_recorded_as_such(echo, tiny, tmp_path):
    evaluate(plan(methods=[{"name": "recompute", "window": 20}], limit=1), tiny, tmp_path)
    record = read_records(tmp_path)[0]
    assert (record["status"], record["score"]) == ("cannot", None)
    assert "can only score" in record["note"]


def test_questions_that_came_before_the_end_are_kept(echo, tiny, tmp_path, monkeypatch):
    def run(self, stream, sample) -> Iterator[Outcome]:
        for n in range(9):
            stream.feed(sample.context)
            yield Outcome(n, 1.0, part=str(n), group="own")

    monkeypatch.setattr(echo, "run", run)
    tasks = [{"name": "echo", "lengths": [40], "samples": 1}]
    rows = evaluate(plan(tasks, ["dense"]), tiny, tmp_path)
    records = read_records(tmp_path)
    parts = [r["part"] for r in records if r["status"] == "ok"]
    assert 1 < len(parts) < 9
    assert records[-1]["status"] == "too long"
    assert [(r["group"], r["n"], r["too_long"]) for r in rows] == [("own", len(parts), 0), ("part 0", 0, 1)]


def test_samples_do_not_depend_on_how_many_are_made(echo, tiny, tmp_path):
    evaluate(plan(methods=[SINKS]), tiny, tmp_path / "all")
    evaluate(plan([{"name": "echo", "lengths": [40], "samples": 1}], [SINKS]), tiny, tmp_path / "one")
    evaluate(plan(methods=[SINKS], seed=1), tiny, tmp_path / "other")
    first, second, third = (
        next(r for r in read_records(tmp_path / name) if r["id"] == "40-0") for name in ("all", "one", "other")
    )
    assert (first["gold"], first["prediction"]) == (second["gold"], second["prediction"])
    assert first["gold"] != third["gold"]


def test_blocks_on_the_disk_give_the_same_and_are_deleted(echo, tiny, tmp_path):
    tasks = [{"name": "echo", "lengths": [600], "samples": 1}]
    evaluate(plan(tasks, [SINKS, BLOCKS]), tiny, tmp_path / "memory")
    evaluate(plan(tasks, [SINKS, BLOCKS]), tiny, tmp_path / "disk", store=tmp_path / "store")
    (_, memory), (_, disk) = read_records(tmp_path / "memory"), read_records(tmp_path / "disk")
    assert disk["prediction"] == memory["prediction"]
    assert disk["report"]["bytes"]["disk"] > 0 == memory["report"]["bytes"]["disk"]
    assert Library(tmp_path / "store").entries() == []
    assert list((tmp_path / "store" / "blocks").iterdir()) == []


def test_progress_reaches_its_total(echo, tiny, tmp_path):
    from contextlib import contextmanager

    told = []

    @contextmanager
    def progress(total):
        yield lambda done, words: told.append((done, total, words))

    evaluate(plan(methods=[SINKS, "transformers"]), tiny, tmp_path, Data(None), progress)
    done, total, words = told[-1]
    assert 0.9 * total < done <= total
    assert words == "echo transformers, 7/8 samples"
    assert [d for d, _, _ in told] == sorted(d for d, _, _ in told)


def test_the_model_is_as_it_was(echo, tiny, tmp_path):
    before = tiny.model.config._attn_implementation
    evaluate(plan(), tiny, tmp_path)
    assert tiny.model.config._attn_implementation == before
