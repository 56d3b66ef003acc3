"""`everlong score` from end to end."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import pytest
import torch
import yaml

from everlong.hooks.adapter import load
from tests.cli.conftest import TEXT


def expected_nll(folder: str, text: str, limit: int | None = None) -> torch.Tensor:
    """Nats of each token after the first, by one forward of the plain model."""
    loaded = load(folder)
    ids = torch.tensor([loaded.tokenizer(text).input_ids[:limit]])
    with torch.inference_mode():
        logp = loaded.model(ids).logits[0, :-1].log_softmax(-1)
    return -logp.gather(1, ids[0, 1:, None])[:, 0]


def test_json_holds_the_interface(everlong, tiny, text_file):
    ended = everlong("score", text_file, "--model", tiny, "-o", "sinks=2", "-o", "window=30", "--json")
    assert ended.code == 0
    assert ended.err == ""
    found = ended.json
    tokens = len(load(tiny).tokenizer(TEXT).input_ids)
    assert list(found) == [
        "tokens",
        "perplexity",
        "nll_per_token",
        "seconds",
        "tokens_per_s",
        "peak_rss_bytes",
        "rss_by_tokens",
        "perplexity_by_position",
        "report",
    ]
    assert found["tokens"] == tokens
    assert found["perplexity"] == pytest.approx(math.exp(found["nll_per_token"]))
    assert found["tokens_per_s"] == pytest.approx(tokens / found["seconds"])
    assert found["peak_rss_bytes"] >= found["rss_by_tokens"][-1][1] > 10**7
    assert found["rss_by_tokens"][-1][0] == tokens
    assert [row[:2] for row in found["perplexity_by_position"]] == [[0, 1024], [1024, tokens]]
    report = found["report"]
    assert report["seen_tokens"] == tokens == report["sink_tokens"] + report["window_tokens"] + report["dropped_tokens"]
    assert (report["sink_tokens"], report["window_tokens"]) == (2, 30)


def test_dense_equals_the_plain_model(everlong, tiny, text_file):
    ended = everlong("score", text_file, "--model", tiny, "--method", "dense", "--max-tokens", 120, "--json")
    assert ended.json["tokens"] == 120
    nll = expected_nll(tiny, TEXT, 120)
    assert ended.json["nll_per_token"] == pytest.approx(float(nll.double().mean()), abs=1e-5)


@pytest.mark.parametrize(("chunk", "tokens"), [(1, 100), (7, 300), (100, 1300), (600, 1300)])
def test_chunks_do_not_change_the_result(everlong, tiny, text_file, chunk, tokens):
    arguments = ["score", text_file, "--model", tiny, "-o", "window=30", "--json", "--max-tokens", tokens]
    one, other = (everlong(*arguments, "--chunk", n).json for n in (512, chunk))
    assert other["tokens"] == tokens
    assert other["nll_per_token"] == pytest.approx(one["nll_per_token"], abs=1e-5)
    for a, b in zip(one["perplexity_by_position"], other["perplexity_by_position"], strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_recompute_scores_like_dense_while_all_fits(everlong, tiny, text_file):
    arguments = ["score", text_file, "--model", tiny, "--max-tokens", 40, "--json"]
    dense = everlong(*arguments, "--method", "dense").json
    recompute = everlong(*arguments, "--method", "recompute", "-o", "window=64").json
    assert recompute["nll_per_token"] == pytest.approx(dense["nll_per_token"], abs=1e-5)


def test_stdin_gives_the_same(everlong, tiny, text_file):
    from_file = everlong("score", text_file, "--model", tiny, "--json").json
    piped = everlong("score", "-", "--model", tiny, "--json", stdin=TEXT.encode()).json
    assert piped["nll_per_token"] == from_file["nll_per_token"]


def test_another_encoding_is_one_warning(everlong, tiny, tmp_path):
    path, text = tmp_path / "latin.txt", "déjà vu, déjà lu. " * 9
    path.write_bytes(text.encode("latin-1"))
    ended = everlong("score", path, "--model", tiny, "--json")
    assert ended.code == 0
    assert ended.err == (
        f"everlong: warning: {path}: is not UTF-8; read as cp1252, a guess (--encoding NAME overrules it)\n"
    )
    assert ended.json["tokens"] == len(load(tiny).tokenizer(text).input_ids)
    said = everlong("score", path, "--model", tiny, "--json", "--encoding", "latin-1")
    assert (said.err, said.json["nll_per_token"]) == ("", ended.json["nll_per_token"])
    ended = everlong("score", path, "--model", tiny, "--json", "--encoding", "utf-8")
    assert ended.err == f"everlong: warning: {path}: 36 invalid UTF-8 sequences were replaced by U+FFFD\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"a\0b", "a binary file"), (b"\x89PNG\r\n\x1a\n\0\0", "a binary file"), (b"x", "1 token;")],
)
def test_unusable_files_are_one_line_and_exit_2(everlong, tiny, tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    ended = everlong("score", path, "--model", tiny)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"everlong: {path}: {message}")
    assert len(ended.err.splitlines()) == 1


def test_words_say_the_result_and_what_is_next(everlong, tiny, text_file):
    ended = everlong("score", text_file, "--model", tiny)
    assert ended.out.startswith("perplexity ")
    assert "seen 1,4" in ended.out
    assert ended.err.splitlines()[-1] == f"Next: everlong score {text_file} --model {tiny} --csv text-scores.csv"
    quiet = everlong("score", text_file, "--model", tiny, "--quiet")
    assert quiet.err == ""
    assert quiet.out.startswith("perplexity ")


def test_csv_and_plot_are_written_with_their_settings(everlong, tiny, text_file, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra report)")
    table, plot = tmp_path / "out.csv", tmp_path / "picture.png"
    arguments = ["score", text_file, "--model", tiny, "-o", "window=30", "--chunk", 100]
    ended = everlong(*arguments, "--csv", table, "--plot", plot)
    written = [table, plot, table.with_suffix(".yaml"), plot.with_suffix(".yaml")]
    assert f"Wrote {', '.join(map(str, written))}." in ended.err
    assert sorted(tmp_path.iterdir()) == sorted([*written, text_file])
    rows = list(csv.DictReader(table.read_text().splitlines()))
    found = everlong(*arguments, "--json").json
    assert float(rows[-1]["running_perplexity"]) == pytest.approx(found["perplexity"], rel=1e-4)
    for row, (start, end, perplexity) in zip(rows, found["perplexity_by_position"], strict=True):
        assert [int(row["start"]), int(row["end"])] == [start, end]
        assert float(row["perplexity"]) == pytest.approx(perplexity, rel=1e-4)
        assert float(row["ms_per_token"]) > 0
        assert int(row["resident_bytes"]) > 10**7
    assert plot.read_bytes().startswith(b"\x89PNG")
    settings = yaml.safe_load(table.with_suffix(".yaml").read_text())
    assert settings["method"] == {"name": "sinks", "sinks": 4, "window": 30}
    again = everlong("score", text_file, "--config", table.with_suffix(".yaml"), "--json").json
    assert again["nll_per_token"] == found["nll_per_token"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "absent/out.csv"], "absent/out.csv: there is no folder absent"),
        (["--csv", "."], ".: is a folder"),
        (["--plot", "out.txt"], "plot=out.txt: expected a name that ends in .png"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_the_work(
    everlong, monkeypatch, tmp_path, text_file, options, message
):
    monkeypatch.chdir(tmp_path)
    ended = everlong("score", text_file, "--model", "./absent", *options)
    assert ended.code == 2
    assert ended.err.startswith(f"everlong: {message}")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(everlong, tiny, text_file, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    ended = everlong("score", text_file, "--model", tiny, "--csv", folder / "out.csv")
    assert ended.code == 2
    assert "cannot be written to" in ended.err


def test_a_full_disk_leaves_nothing(everlong, tiny, text_file, tmp_path, monkeypatch):
    def full(path: Path, *arguments: object, **named: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    ended = everlong("score", text_file, "--model", tiny, "--csv", tmp_path / "out.csv", "--quiet")
    assert ended.code == 2
    assert ended.err.startswith(f"everlong: {tmp_path / 'out.csv'}: cannot be written (No space left on device)")
    assert list(tmp_path.iterdir()) == [text_file]


def test_a_model_without_tokenizer_is_refused(everlong, stories, text_file):
    ended = everlong("score", text_file, "--model", stories)
    assert ended.code == 2
    assert "has no tokenizer files" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_config_file_gives_defaults_that_the_command_line_overrides(everlong, tiny, text_file, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        json.dumps({"model": tiny, "max-tokens": 99, "method": {"name": "sinks", "sinks": 3, "window": 20}})
    )
    report = everlong("score", text_file, "--config", path, "--json").json["report"]
    assert (report["seen_tokens"], report["method"]) == (99, "sinks(sinks=3, window=20)")
    report = everlong("score", text_file, "--config", path, "--json", "--max-tokens", 50, "-o", "sinks=1").json[
        "report"
    ]
    assert (report["seen_tokens"], report["method"]) == (50, "sinks(sinks=1, window=20)")
    report = everlong("score", text_file, "--config", path, "--json", "--method", "window").json["report"]
    assert report["method"] == "window(window=1020)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("windw: 3", "'windw' is no option of everlong score"),
        ("max_tokens: many", "Invalid value for '--max-tokens'"),
        ("chunk: {a: 1}", "chunk={'a': 1}: expected a value"),
        ("method: {name: sinks, windw: 3}", "windw=3: method sinks has no option 'windw'"),
        ("method: {sinks: 3}", "method"),
        ("- a", "got list"),
    ],
)
def test_wrong_config_files_are_refused(everlong, text_file, tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    ended = everlong("score", text_file, "--config", path)
    assert ended.code == 2
    assert message in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("there", ["out.csv", "out.png", "out.yaml"])
def test_what_is_there_is_written_over_with_force_only(everlong, tiny, text_file, tmp_path, there):
    pytest.importorskip("matplotlib", reason="needs the extra everlong[report]")
    (tmp_path / there).write_text("mine")
    arguments = ["score", text_file, "--model", tiny, "--csv", tmp_path / "out.csv", "--plot", tmp_path / "out.png"]
    refused = everlong(*arguments, "--max-tokens", 40)
    assert refused.code == 2
    assert refused.err == (f"everlong: {tmp_path / there}: exists; give another place, or --force to write over it\n")
    assert (tmp_path / there).read_text() == "mine"
    assert everlong(*arguments, "--max-tokens", 40, "--force").code == 0
    assert (tmp_path / there).read_bytes() != b"mine"


@pytest.mark.parametrize("places", [["--csv", "a.yaml"], ["--csv", "a.png", "--plot", "./a.png"]])
def test_places_that_are_one_are_refused(everlong, tiny, text_file, tmp_path, monkeypatch, places):
    monkeypatch.chdir(tmp_path)
    refused = everlong("score", text_file, "--model", tiny, *places)
    assert refused.code == 2
    assert "need names of their own" in refused.err
