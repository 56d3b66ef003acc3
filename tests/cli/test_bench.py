"""`everlong bench` from end to end: its rows, its peers, and what it refuses."""

from __future__ import annotations

import pytest

from everlong.cli.bench import sized
from everlong.errors import ConfigError
from everlong.methods import Dense, Sinks, Window

SHORT = ["--chunk", 16, "--repeats", 3, "--threads", 1, "--peers", "transformers"]
BLOCKS = ["-o", "block=16", "-o", "window=32", "-o", "top_k=2", "-o", "exec_chunk=16"]


def test_json_holds_the_interface(everlong, tiny):
    ended = everlong("bench", "--model", tiny, "--what", "decode,read", "--context", "32,64", *SHORT, "--json")
    assert ended.code == 0
    assert ended.err == ""
    found = ended.json
    assert {"command", "machine", "versions", "model", "left_out", "rows"} == found.keys()
    rows = found["rows"]
    assert [(r["what"], r["context"]) for r in rows] == [("decode", 32), ("read", 32), ("decode", 64), ("read", 64)]
    for row in rows:
        assert row["method"] == "sinks"
        assert row["unit"] == ("ms_per_token" if row["what"] == "decode" else "tokens_per_s")
        assert (row["repeats"], row["tokens"]) == (3, 8 if row["what"] == "decode" else 16)
        peer = row["peers"]["transformers"]
        for figure in (row["everlong"], peer):
            assert min(figure[name] for name in ("wall", "cpu", "spread", "cpu_spread")) >= 0
        low, high = peer["cpu_ratio_quartiles"]
        assert low <= peer["cpu_ratio"] <= high


def test_blocks_are_timed_answering_and_their_choice_and_opening_too(everlong, tiny):
    whats = ["--what", "decode,choice,resume", "--method", "blocks", "--context", 160, "--profile", *BLOCKS]
    rows = everlong("bench", "--model", tiny, *whats, *SHORT, "--json").json["rows"]
    assert [(row["what"], list(row["peers"])) for row in rows] == [
        ("decode", ["transformers"]),
        ("choice", []),
        ("resume", []),
    ]
    decode, choice, resume = (row["everlong"] for row in rows)
    assert 0 < choice["wall"] < decode["wall"] < resume["wall"]
    parts = rows[0]["profile"]
    assert parts.keys() == {"linears", "attention", "memory", "norms", "framework", "total"}
    assert parts["total"] == pytest.approx(sum(parts.values()) - parts["total"], rel=0.5)
    assert min(parts["linears"], parts["memory"]) > 0
    assert parts["attention"] >= 0  # what is left of the calls in C, next to nothing in a model so small


def test_several_methods_and_their_fields(everlong, tiny):
    arguments = ["--what", "read", "--cache", "20", *SHORT, "--json"]
    rows = everlong("bench", "--model", tiny, "--method", "dense,window,sinks", *arguments).json["rows"]
    assert [row["method"] for row in rows] == ["dense", "window", "sinks"]
    assert everlong("bench", "--model", tiny, "-o", "sinks=7", *arguments).code == 0


def test_words_stand_under_the_command_and_the_circumstances(everlong, tiny, tmp_path):
    plot = tmp_path / "speed.svg"
    ended = everlong("bench", "--model", tiny, "--what", "decode", "--context", 16, *SHORT, "--plot", plot)
    lines = ended.out.splitlines()
    assert lines[0].startswith("everlong bench --model")
    assert "1 threads; everlong " in lines[1]
    assert lines[4].split()[:4] == ["decode", "sinks", "16", "everlong"]
    assert lines[5].split()[0] == "transformers"
    assert "Ratio above 1: everlong is faster" in ended.err
    assert "everlong sinks" in plot.read_text()


def test_peers_beyond_their_longest_context_are_left_out_and_named(everlong, tiny):
    arguments = ["--what", "decode", "--context", "16,64", "--peers-to", "32", *SHORT]
    ended = everlong("bench", "--model", tiny, *arguments, "--json")
    assert [list(row["peers"]) for row in ended.json["rows"]] == [["transformers"], []]
    assert list(ended.json["left_out"]) == ["transformers at 64"]


def test_peers_that_do_not_read_the_model_are_named_and_refused_where_asked_for(everlong, tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    short = [word for word in SHORT if word not in ("--peers", "transformers")]
    arguments = ["--model", tiny, "--what", "decode", "--context", 16, *short]
    auto = everlong("bench", *arguments, "--json").json
    assert {name: "is not installed" in why for name, why in auto["left_out"].items()} == {
        "llama.cpp": True,
        "onnxruntime-genai": True,
    }
    named = everlong("bench", *arguments, "--peers", "llama.cpp")
    assert named.code == 2
    assert "pip install 'everlong[bench]'" in named.err
    assert list(everlong("bench", *arguments, "--peers", "none", "--json").json["rows"][0]["peers"]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--what", "choice"], "sinks chooses no blocks"),
        (["--what", "write"], "what=write: does not exist"),
        (["--context", "16", "--cache", "16"], "takes the place of --context"),
        (["--context", "some"], "context=some: expected a whole number"),
        (["--peers", "vllm"], "peers=vllm: does not exist"),
        (["--plot", "speed.doc"], "expected a name that ends in"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_model_is_loaded(everlong, arguments, message):
    ended = everlong("bench", "--model", "/does/not/exist", *arguments)
    assert ended.code == 2
    assert message in ended.err


def test_recompute_is_refused(everlong, tiny):
    ended = everlong("bench", "--model", tiny, "--method", "recompute", "--cache", 16)
    assert ended.code == 2
    assert "recompute(window=16) keeps no cache" in ended.err


def test_the_cache_size_sets_the_window():
    assert sized("sinks", 100, {}) == Sinks(sinks=4, window=96)
    assert sized("sinks", 100, {"sinks": "10"}) == Sinks(sinks=10, window=90)
    assert sized("window", 100, {}) == Window(window=100)
    assert sized("dense", 100, {}) == Dense()
    with pytest.raises(ConfigError, match="window=5: --cache sets it"):
        sized("sinks", 100, {"window": 5})
