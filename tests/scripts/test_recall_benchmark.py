"""The benchmark of the task recall: a whole run in small, stopped and gone on with, and its tables."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from everlong.evaluate.folder import read_records
from everlong.session.session import Session
from tests.conftest import ROOT
from tests.evaluate.recalling import pose
from tests.models.tiny import save_folder

BLOCKS = "blocks:sinks=2,window=60,block=64,top_k=2,exec_chunk=16,pool=8,repr_topk=2"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports the benchmark as `python benchmarks/recall.py` does, for sessions that pose questions."""
    monkeypatch.setattr(Session, "pose", pose, raising=False)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recall")


def run(script: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> dict[str, Any]:
    """The record of one run."""
    out = folder / "out.json"
    given = ["--model", str(folder / "model"), "--kinds", "named,absent", "--lengths", "800", "--questions", "2"]
    given += ["--tail", "130", "--filler", "noise", "--work", str(folder / "work"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["recall.py", *given, *more])
    script.main()
    return json.loads(out.read_text(encoding="utf-8"))


def test_methods_are_compared_on_the_same_questions(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    save_folder(tmp_path / "model", max_position_embeddings=1024)
    methods = ["--method", "dense", "--method", f"{BLOCKS}@0,1"]
    record = run(script, monkeypatch, tmp_path, *methods)
    names = [one["variant"] for one in record["tables"]["named"]]
    assert names == ["dense", f"{BLOCKS} again=0", f"{BLOCKS} again=1"]
    dense, unvoted, voted = record["tables"]["named"]
    assert dense["logp_less_first"]["mean"] == 0
    assert dense["hit"] is None
    records = read_records(tmp_path / "work")
    logps = {
        way: [
            r["facts"]["logp"]
            for r in records
            if r["id"] == "named-800-0" and "logp" in r["facts"] and r["facts"].get("again") == way
        ]
        for way in (None, 1)
    }
    assert len(logps[1]) == voted["n"] == voted["pairs"] == 2
    assert voted["logp_less_first"]["mean"] == pytest.approx(sum(logps[1]) / 2 - sum(logps[None]) / 2)
    assert voted["stands_out"] is not None
    assert unvoted["stands_out"] is None
    assert 0 <= voted["shared"] <= 1
    assert record["tables"]["absent"][2]["said_absent"] is not None
    # What "all" has is without absent, whose score is another one.
    assert [one["n"] for one in record["tables"]["all"]] == [2, 2, 2]
    said = capsys.readouterr().out
    assert "| variant | right |" in said
    assert record["circumstances"] in said
    before = (tmp_path / "work" / "records.jsonl").read_bytes()
    assert run(script, monkeypatch, tmp_path, *methods)["tables"] == record["tables"]
    assert (tmp_path / "work" / "records.jsonl").read_bytes() == before, "nothing is run again"


def test_a_method_that_can_take_no_text_is_named(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_folder(tmp_path / "model", max_position_embeddings=512)
    record = run(script, monkeypatch, tmp_path, "--method", "dense", "--method", "sinks:window=200", "--kinds", "codes")
    assert [one["variant"] for one in record["tables"]["codes"]] == ["sinks:window=200"]
    (line,) = record["left_out"]
    assert line.startswith("dense: 1 texts left out, the first because of ")
    assert "trained length" in line


def test_methods_are_read_from_their_description(script: Any):
    tried = script.Tried.parsed("blocks:top_k=4,codec=int8@0,auto")
    assert (tried.method.top_k, tried.method.codec, tried.ways) == (4, "int8", (0, "auto"))
    assert script.Tried.parsed("dense").ways == (0,)
    assert script.kind_of({"id": "named-8192-0"}) == "named"
