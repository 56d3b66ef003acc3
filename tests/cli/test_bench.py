"""`everlong bench` from end to end: its rows, and that the baseline is the plain model."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from everlong.cli.timing import Baseline, sized
from everlong.errors import CapabilityError, ConfigError
from everlong.evaluate.baseline import stock_copy
from everlong.hooks.adapter import load
from everlong.methods import Dense, Sinks, Window

SHORT = ["--chunk", 16, "--repeats", 3, "--threads", 1]


def test_json_holds_the_interface(everlong, tiny):
    ended = everlong("bench", "--model", tiny, "--what", "decode,read", "--cache", "32,64", *SHORT, "--json")
    assert ended.code == 0
    assert ended.err == ""
    rows = ended.json
    assert [(row["what"], row["cache"]) for row in rows] == [("decode", 32), ("read", 32), ("decode", 64), ("read", 64)]
    for row in rows:
        figure = "ms_per_token" if row["what"] == "decode" else "tokens_per_s"
        ratio = row["baseline"] / row[figure] if row["what"] == "decode" else row[figure] / row["baseline"]
        assert row["method"] == "sinks"
        assert row["ratio"] == pytest.approx(ratio)
        assert min(row[figure], row["baseline"], row["spread"], row["baseline_spread"]) >= 0
        assert (row["repeats"], row["chunk"]) == (3, 1 if row["what"] == "decode" else 16)


def test_several_methods_and_their_fields(everlong, tiny):
    arguments = ["--what", "read", "--cache", "20", *SHORT, "--json"]
    rows = everlong("bench", "--model", tiny, "--method", "dense,window,sinks", *arguments).json
    assert [row["method"] for row in rows] == ["dense", "window", "sinks"]
    assert everlong("bench", "--model", tiny, "-o", "sinks=7", *arguments).code == 0


def test_words_stand_under_the_command_and_the_circumstances(everlong, tiny):
    ended = everlong("bench", "--model", tiny, "--what", "decode", "--cache", 16, *SHORT)
    lines = ended.out.splitlines()
    assert lines[0].startswith("everlong bench --model")
    assert "1 threads; everlong " in lines[1]
    assert lines[-1].split()[:3] == ["decode", "sinks", "16"]
    assert "Ratio above 1: better than transformers" in ended.err


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


def test_the_baseline_is_plain_transformers_and_stays_at_its_size(tiny):
    model = load(tiny).model
    ids = torch.arange(3, 43)
    base = Baseline(stock_copy(model), ids[:30], chunk=7)
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(ids[None, :30], past_key_values=cache)
        expected = model(ids[None, 30:], past_key_values=cache).logits[0, -1]
    for _ in range(3):
        assert torch.allclose(base.read(ids[30:])[0, -1], expected, atol=1e-5)
        base.crop(10)


def test_the_copy_shares_the_weights_and_nothing_else(tiny):
    model = load(tiny).model
    copy = stock_copy(model)
    pairs = zip(model.parameters(), copy.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert copy.model is not model.model
    assert copy.config is not model.config


def test_a_method_without_a_cache_cannot_be_measured(everlong, tiny):
    with pytest.raises(CapabilityError, match="keeps no cache"):
        everlong("bench", "--model", tiny, "--method", "recompute", "--cache", 16, "--debug")
