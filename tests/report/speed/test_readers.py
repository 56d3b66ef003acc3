"""What is timed is what it says: plain transformers behind a context, and a session that stays where it was."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from everlong.evaluate.baseline import stock_copy
from everlong.methods import Dense
from everlong.models.load import Loaded
from everlong.report.speed.measure import Bench, BenchSettings
from everlong.report.speed.profile import Stopwatch
from everlong.report.speed.readers import EverlongReader, TransformersReader
from everlong.report.speed.rows import row
from everlong.report.speed.timed import Times


@pytest.fixture
def loaded(tiny_llama) -> Loaded:
    return Loaded(tiny_llama(), None, "tiny")


def test_the_baseline_is_plain_transformers_and_stays_at_its_context(loaded):
    ids = list(range(3, 43))
    reader = TransformersReader(stock_copy(loaded.model), ids[:30], chunk=7)
    cache = DynamicCache(config=loaded.model.config)
    with torch.inference_mode():
        loaded.model(torch.tensor([ids[:30]]), past_key_values=cache)
        expected = loaded.model(torch.tensor([ids[30:]]), past_key_values=cache).logits[0, -1]
    for _ in range(3):
        reader.decode([5, 6])
        reader.back()
        assert torch.allclose(reader.read(ids[30:])[0, -1], expected, atol=1e-5)
        reader.back()


def test_a_session_that_keeps_all_goes_back(loaded):
    reader = EverlongReader(loaded, Dense(), range(3, 33), chunk=8)
    reader.decode([4, 5])
    assert reader.session.seen_tokens == 32
    reader.back()
    assert reader.session.seen_tokens == 30
    reader.close()


def test_the_copy_shares_the_weights_and_nothing_else(loaded):
    copy = stock_copy(loaded.model)
    pairs = zip(loaded.model.parameters(), copy.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert copy.model is not loaded.model.model
    assert copy.config is not loaded.model.config


def test_ratios_are_taken_round_by_round():
    ours = [Times(1.0, 0.5), Times(2.0, 1.0), Times(4.0, 2.0)]
    theirs = [Times(3.0, 0.5), Times(6.0, 2.0), Times(12.0, 6.0)]
    found = row("decode", "sinks", 128, 2, {"everlong": ours, "other": theirs})
    assert (found.everlong.wall, found.everlong.cpu) == (1000.0, 500.0)
    assert (found.peers["other"].ratio, found.peers["other"].ratio_quartiles) == (3.0, (3.0, 3.0))
    assert (found.peers["other"].cpu_ratio, found.peers["other"].cpu_ratio_quartiles) == (2.0, (1.5, 2.5))


def test_readers_take_turns_and_see_the_same_ids(loaded):
    told = []

    class Told:
        name = "told"

        def __init__(self, ids, chunk, room):
            told.append(("context", len(ids), chunk))

        def read(self, ids):
            told.append(("read", *ids))

        def decode(self, ids):
            told.append(("decode", *ids))

        def back(self):
            told.append("back")

        def close(self):
            told.append("closed")

    bench = Bench(loaded, {"told": Told}, BenchSettings(chunk=4, repeats=2))
    rows = list(bench.rows(12, [(Dense(), 12)], ["read"]))
    assert rows[0].peers["told"].cpu > 0
    assert told[0] == ("context", 12, 4)
    assert told.count("back") == 4
    pieces = [one[1:] for one in told if one[0] == "read"]
    assert len(pieces) == 4
    assert all(len(piece) == 4 for piece in pieces)
    assert told[-1] == "closed"


def test_what_is_timed_inside_is_not_timed_outside_and_all_is_put_back():
    class Work:
        def inner(self):
            return sum(range(900_000))

        def outer(self):
            return self.inner()

    watch = Stopwatch()
    before = dict(vars(Work))
    with watch.timing(Work, "inner", "in"), watch.timing(Work, "outer", "out"):
        assert Work().outer() == sum(range(900_000))
    assert watch.times["in"].wall > 2 * watch.times["out"].wall > 0
    assert dict(vars(Work)) == before


def test_a_sample_that_took_no_time_gives_a_figure(loaded):
    nothing = [Times(0.0, 0.0)] * 3
    found = row("read", "sinks", 1, 4, {"everlong": nothing, "other": nothing})
    assert found.peers["other"].cpu_ratio == 0
