"""`everlong calibrate` from end to end, and what `everlong doctor` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlong.models.retrieval_heads import read
from tests.models.tiny import save_folder


@pytest.fixture(scope="module")
def roomy(tmp_path_factory) -> str:
    return str(save_folder(tmp_path_factory.mktemp("roomy"), max_position_embeddings=1024))


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERLONG_HOME", str(tmp_path / "home"))


def told(ended) -> str:
    return next(line for line in ended.out.splitlines() if "retrieval heads" in line)


def test_heads_are_found_written_and_seen_by_doctor(everlong, roomy, tmp_path):
    assert f"not calibrated: `everlong calibrate --model {roomy}`" in told(everlong("doctor", "--model", roomy))
    ended = everlong("calibrate", "--model", roomy, "--tokens", 700)
    assert ended.code == 0
    assert ended.out.startswith("layer  head   score\n")
    written = Path(next(line for line in ended.out.splitlines() if line.startswith("Wrote ")).removeprefix("Wrote "))
    assert written.parent == tmp_path / "home" / "heads"
    assert ended.err.endswith(f"Next: everlong doctor --model {roomy}\n")
    heads = read(written)
    assert len(heads.heads) == 8  # two layers of four heads
    assert dict(heads.versions).keys() >= {"everlong", "torch", "transformers", "python"}
    assert f"calibrated, 8 heads, recall {heads.recall:.2f} at" in told(everlong("doctor", "--model", roomy))


def test_json_is_the_whole_result(everlong, roomy):
    ended = everlong("calibrate", "--model", roomy, "--tokens", 700, "--seed", 3, "--json")
    found = ended.json
    assert ended.code == 0
    assert found["seed"] == 3
    assert len(found["heads"]) == len(found["scores"]) == 8
    assert found["scores"] == sorted(found["scores"], reverse=True)
    assert 0 <= found["recall_first"] <= found["recall"] <= 1
    assert read(Path(found["file"])).key == found["key"]


@pytest.mark.parametrize("tokens", [5000, 100])
def test_a_length_that_does_not_fit_is_refused(everlong, roomy, tokens):
    ended = everlong("calibrate", "--model", roomy, "--tokens", tokens)
    assert ended.code == 2
    assert f"tokens={tokens}: " in ended.err
    assert "expected 680 to 768" in ended.err


def test_a_damaged_file_shows_in_doctor(everlong, roomy):
    found = everlong("calibrate", "--model", roomy, "--tokens", 700, "--json").json
    Path(found["file"]).write_text("{")
    assert "remove it and run `everlong calibrate`" in told(everlong("doctor", "--model", roomy))
