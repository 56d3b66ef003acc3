"""The demo from end to end, on a tiny model: what it prints and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from everlong.cli.app import app
from tests.models.tiny import save_folder

SMALL = ["--tokens", "2500", "--cache", "64", "--new-tokens", "8", "--threads", "1"]


def run(*arguments: str) -> str:
    """What `everlong demo` prints."""
    result = CliRunner().invoke(app, ["demo", *arguments], env={"COLUMNS": "100"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output of a small run and the folder that it wrote."""
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    out = tmp_path_factory.mktemp("demo")
    model = save_folder(tmp_path_factory.mktemp("tiny"), max_position_embeddings=256)
    return run(*SMALL, "--model", str(model), "--out", str(out)), out


def test_table_has_every_method_and_dense_stops_at_the_trained_length(demo: tuple[str, Path]):
    output, _ = demo
    rows = [line for line in output.splitlines() if "to 2,048" in line]
    assert len(rows) == 1
    assert all(label in output for label in ("dense", "window 64", "sinks 4+60"))
    dense, window, sinks = (cell.strip(" │") for cell in rows[0].split("│")[2:5])
    assert dense == "-"
    assert float(window) > 1
    assert float(sinks) > 1


def test_progress_and_report_and_next_step_are_printed(demo: tuple[str, Path]):
    output, out = demo
    assert "dense        256 / 256 tokens" in output
    assert "sinks      2,500 / 2,500 tokens" in output
    assert "Memory report:" in output
    assert f"Wrote {out / 'demo.png'} and {out / 'demo.json'}." in output.replace("\n", "")
    assert "make demo ARGS=--full" in output


def test_files_hold_the_curves_and_a_report_that_adds_up(demo: tuple[str, Path]):
    _, out = demo
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert [curve["bins"][-1][1] for curve in result["streams"]] == [256, 2500, 2500]
    report = result["report"]
    kept = report["sink_tokens"] + report["window_tokens"] + report["stored_tokens"] + report["dropped_tokens"]
    assert 2500 < report["seen_tokens"] <= 2508
    assert report["seen_tokens"] == kept
