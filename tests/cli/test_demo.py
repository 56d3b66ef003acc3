"""The demo from end to end, on a tiny model: what it prints and what it writes."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from everlong.cli.app import app
from everlong.cli.jobs import Job
from everlong.errors import SaveError
from tests.models.tiny import save_folder

pytestmark = pytest.mark.heavy(reason="what a new user runs first, end to end, the question in a new process")
SMALL = ["--tokens", "2500", "--cache", "64", "--new-tokens", "8", "--threads", "1"]


def run(*arguments: str) -> str:
    """What `everlong demo` prints."""
    result = CliRunner().invoke(app, ["demo", *arguments], env={"COLUMNS": "100"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model trained on 256 tokens."""
    return save_folder(tmp_path_factory.mktemp("tiny"), max_position_embeddings=256)


def in_this_process(jobs: list[Job], *_: object) -> list[Any]:
    """What jobs bring: what goes to their processes and comes back from there is pickled here too."""
    return [_same(job).run(*_same(job).arguments, lambda *_: None) for job in jobs]


def _same(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


class Demo(NamedTuple):
    """A small run: what it printed, the folder that it wrote, what its jobs and the question brought."""

    output: str
    out: Path
    first: dict[str, Any]
    streams: list[Any]
    asked: dict[str, Any]


PROCESSES = pytest.param(True, marks=pytest.mark.slow(reason="without: the same jobs in this process, pickled"))


@pytest.fixture(scope="module", params=[False, PROCESSES], ids=["one process", "jobs in processes"])
def demo(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One small run for all tests; the question is always put in a new process."""
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    out, brought = tmp_path_factory.mktemp("demo"), {}
    module = importlib.import_module("everlong.cli.demo")

    def noted(name: str) -> Any:
        work = getattr(module, name)

        def call(*arguments: Any) -> Any:
            brought[name] = work(*arguments)
            return copy.deepcopy(brought[name])

        return call

    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr("everlong.cli.jobs.run_jobs", in_this_process)
        for name in ("_read_first", "_read_streams", "_ask"):
            patch.setattr(module, name, noted(name))
        output = run(*SMALL, "--model", str(tiny), "--out", str(out))
    return Demo(output, out, *(brought[name] for name in ("_read_first", "_read_streams", "_ask")))


def test_table_has_every_method_and_dense_stops_at_the_trained_length(demo: Demo):
    output = demo.output
    rows = [line for line in output.splitlines() if "to 2,048" in line]
    assert len(rows) == 1
    assert all(label in output for label in ("dense", "window 64", "sinks 4+60"))
    dense, window, sinks = (cell.strip(" │") for cell in rows[0].split("│")[2:5])
    assert dense == "-"
    assert float(window) > 1
    assert float(sinks) > 1


def test_progress_and_report_and_next_step_are_printed(demo: Demo):
    output, out = demo.output, demo.out
    assert "Blocks read 1,2" in output or "Blocks read 1,3" in output
    assert output.index("Blocks read 1,") < output.index("The other text") < output.index("perplexity by position")
    assert "8 tokens, " in output
    assert "Memory report: sinks(sinks=4, window=60): seen 2,508" in output
    assert f"Wrote {out / 'demo.png'}, {out / 'demo.json'}, {out / 'demo.yaml'}." in output
    assert "make demo ARGS=--full" in output


def test_the_hidden_key_is_asked_for_in_a_new_process_and_the_answer_cited(demo: Demo):
    output, out = demo.output, demo.out
    found = json.loads((out / "demo.json").read_text(encoding="utf-8"))["remembered"]
    text = (out / "haystack.txt").read_text(encoding="utf-8")
    assert str(found["key"]) in text[slice(*found["hidden"])]
    # The question is put to a short stream of its own: the session has read the text and nothing else.
    assert found["report"]["seen_tokens"] == found["tokens"] > 1000
    assert found["right"] == found["text"].strip().startswith(str(found["key"]))
    assert ("(right;" if found["right"] else f"WRONG, the key is {found['key']}") in output
    assert sum(c["mass"] for c in found["citations"]) == pytest.approx(1, abs=1e-3)
    assert all(text[c["start"] : c["end"]] == c["text"] for c in found["citations"])
    # Passages of a model that was trained on 128 tokens are too short to hold all of what was hidden.
    first, end = found["hidden"]
    assert any(c["start"] < end and first < c["end"] for c in found["citations"])
    assert f"[{found['citations'][0]['mass']:.0%}] haystack.txt:" in output
    assert 1 <= len(found["recall"]["shown"]) <= 2


def test_json_is_one_object_with_the_curves_the_text_and_the_report(
    demo: Demo, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of what the run before has read and answered."""
    for name, brought in {"_read_first": demo.first, "_read_streams": demo.streams, "_ask": demo.asked}.items():
        monkeypatch.setattr(f"everlong.cli.demo.{name}", lambda *_, brought=brought: brought)
    output = run(*SMALL, "--model", str(tiny), "--out", str(tmp_path), "--json")
    result = json.loads(output)
    assert set(result) == {"streams", "text", "report", "remembered", "written"}
    assert [row["label"] for row in result["streams"]] == ["dense", "window 64", "sinks 4+60"]


def test_folder_that_cannot_be_made_is_refused_before_the_model_is_loaded(tmp_path: Path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(SaveError, match=r"cannot be made .*--out"):
        run("--out", str(tmp_path / "file" / "folder"), "--model", "no-such-model")


def test_files_hold_the_curves_and_a_report_that_adds_up(demo: Demo):
    out = demo.out
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert [curve["bins"][-1][1] for curve in result["streams"]] == [256, 2500, 2500]
    report = result["report"]
    kept = report["sink_tokens"] + report["window_tokens"] + report["stored_tokens"] + report["dropped_tokens"]
    assert 2500 < report["seen_tokens"] <= 2508
    assert report["seen_tokens"] == kept
