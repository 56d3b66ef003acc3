"""Many samples at once: the records of one at a time, and what cannot be run so is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from everlong.errors import ConfigError
from everlong.evaluate.data import Data
from everlong.evaluate.folder import read_records
from everlong.evaluate.runner import evaluate
from everlong.evaluate.task import Task
from everlong.library.library import Library
from tests.evaluate.test_runner import BLOCKS, SINKS, kept, plan

ALL = ("dense", SINKS, BLOCKS, {"name": "infini", "segment": 16}, "transformers", {"name": "recompute", "window": 20})
LONG = [{"name": "echo", "lengths": [20, 90, 200], "samples": 1}]


def same(records):
    """Records by sample and method, without what differs between one at a time and many: room that caches have left."""
    plain = [{name: value for name, value in r.items() if name != "at_once"} for r in kept(records)]
    for record in plain:
        if record["report"] is not None:
            record["report"] = record["report"] | {"bytes": record["report"]["bytes"] | {"device": None}}
    return sorted(plain, key=lambda r: (r["id"], r["method"]))


def test_many_at_once_have_the_records_of_one_at_a_time(echo, tiny, tmp_path):
    said = []
    one = evaluate(replace(plan(LONG, ALL), chunk=64), tiny, tmp_path / "one", say=said.append)
    assert said == []
    many = evaluate(replace(plan(LONG, ALL), chunk=64), tiny, tmp_path / "many", at_once=3, say=said.append)
    assert same(read_records(tmp_path / "many")) == same(read_records(tmp_path / "one"))
    statuses = {(r["method"], r["length"]): r["status"] for r in read_records(tmp_path / "many")}
    assert (statuses["dense", 200], statuses["dense", 90], statuses["sinks", 200]) == ("too long", "ok", "ok")
    scores = [[(r["method"], r["group"], r["length"], r["score"]) for r in rows] for rows in (one, many)]
    assert sorted(scores[0], key=str) == sorted(scores[1], key=str)
    assert said == ["One at a time: transformers (has no engine), recompute (scores by running the model anew)."]
    for record in read_records(tmp_path / "many"):
        together = record["method"] not in ("transformers", "recompute")
        assert record["at_once"] == (3 if together else 1)
        assert record["seconds"] >= record["model_s"] >= 0
        assert not together or record["peak_rss_bytes"] is None
    assert tiny.model.config._attn_implementation != "everlong"


def test_many_are_read_in_one_forward(echo, tiny, tmp_path):
    ran = []
    hook = tiny.model.model.norm.register_forward_hook(lambda *_: ran.append(1))
    counts = []
    for at_once in (1, 8):
        ran.clear()
        evaluate(replace(plan(methods=[SINKS]), chunk=64), tiny, tmp_path / str(at_once), at_once=at_once)
        counts.append(len(ran))
    hook.remove()
    assert counts[1] < counts[0] / 1.5


def test_a_task_that_asks_for_more_than_an_answer_is_run_alone(echo, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(echo, "run", lambda self, stream, sample: Task.run(self, stream, sample))
    said = []
    evaluate(plan(methods=[SINKS]), tiny, tmp_path, at_once=4, say=said.append)
    assert said == ["One at a time: echo (asks for more than one answer)."]
    assert {r["at_once"] for r in read_records(tmp_path)} == {1}


def test_a_model_that_is_not_packed_says_so(echo, tiny, tmp_path, monkeypatch):
    for where in ("evaluate.runner", "engine.batch"):
        monkeypatch.setattr(f"everlong.{where}.unpackable", lambda model: "it may not")
    said = []
    evaluate(plan(methods=[SINKS]), tiny, tmp_path / "alone", at_once=4, say=said.append)
    assert said == ["The model reads streams one by one, which gains no time: it may not."]
    evaluate(plan(methods=[SINKS]), tiny, tmp_path / "one")
    assert same(read_records(tmp_path / "alone")) == same(read_records(tmp_path / "one"))


def test_a_run_goes_on_after_an_interrupt_with_any_number_at_once(echo, tiny, tmp_path, monkeypatch):
    evaluate(plan(), tiny, tmp_path / "whole")
    calls, judge = iter(range(100)), echo.judged

    def dies(self, answer, sample):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return judge(self, answer, sample)

    with monkeypatch.context() as patch:
        patch.setattr(echo, "judged", dies)
        with pytest.raises(KeyboardInterrupt):
            evaluate(plan(), tiny, tmp_path / "cut", at_once=4, store=tmp_path / "store")
    assert len(read_records(tmp_path / "cut")) == 3
    assert Library(tmp_path / "store").entries() == []
    evaluate(plan(), tiny, tmp_path / "cut", at_once=2)
    assert same(read_records(tmp_path / "cut")) == same(read_records(tmp_path / "whole"))
    assert {r["at_once"] for r in read_records(tmp_path / "cut") if r["method"] != "transformers"} <= {2, 4}


def test_an_error_of_one_sample_ends_the_run_as_it_does_one_at_a_time(echo, tiny, tmp_path, monkeypatch):
    def refuses(*_):
        raise ConfigError("no")

    monkeypatch.setattr("everlong.session.session.Session.prompt_pieces", refuses)
    with pytest.raises(ConfigError, match="no"):
        evaluate(plan(methods=[SINKS]), tiny, tmp_path, at_once=3)
    assert read_records(tmp_path) == []


def test_a_sample_that_two_entries_have_in_common_is_run_once(echo, tiny, tmp_path):
    evaluate(plan(["echo", "echo"], [SINKS]), tiny, tmp_path, at_once=3)
    ids = [r["id"] for r in read_records(tmp_path)]
    assert len(ids) == len(set(ids)) == 4


def test_blocks_on_the_disk_are_deleted(echo, tiny, tmp_path):
    tasks = [{"name": "echo", "lengths": [150], "samples": 2}]
    evaluate(plan(tasks, [BLOCKS]), tiny, tmp_path / "one", store=tmp_path / "store")
    evaluate(plan(tasks, [BLOCKS]), tiny, tmp_path / "many", store=tmp_path / "store", at_once=3)
    one, many = (read_records(tmp_path / name) for name in ("one", "many"))
    assert [r["prediction"] for r in one] == [r["prediction"] for r in sorted(many, key=lambda r: r["id"])]
    assert all(r["report"]["bytes"]["disk"] > 0 for r in many)
    assert Library(tmp_path / "store").entries() == []


def test_progress_reaches_its_total(echo, tiny, tmp_path):
    from contextlib import contextmanager

    told = []

    @contextmanager
    def progress(total):
        yield lambda done, words: told.append((done, total, words))

    evaluate(plan(methods=[SINKS, BLOCKS]), tiny, tmp_path, Data(None), progress, at_once=3)
    done, total, words = told[-1]
    assert 0.9 * total < done <= total
    assert words.endswith("/8 samples")
    assert [d for d, _, _ in told] == sorted(d for d, _, _ in told)
