"""What budgets, pins, forgetting, compaction, repair and surprise-cut blocks do to each other."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks, Session
from everlong.errors import CapabilityError
from everlong.library.library import Library
from tests.session.keeping import answer

SMALL = {"sinks": 3, "window": 40, "block": 8, "top_k": 3, "exec_chunk": 16, "pool": 6, "codec": "native"}
IDS = torch.randint(97, (900,), generator=torch.Generator().manual_seed(3)).tolist()
DISK = {"even": 520_000, "surprise": 700_000}
"""So that blocks give way after some hundred tokens: three states take the greater part."""


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def made(model, store, cut, **budgets):
    fields = SMALL | ({"cut": "surprise", "surprise_window": 16, "surprise_gamma": 0.5} if cut == "surprise" else {})
    return Session(model, Blocks(**fields), chunk=32, store=store, name="one", **budgets)


def reopened(model, store, **budgets):
    with Session.open(store, "one", model, 32, read_only=not budgets, **budgets) as session:
        report = session.report()
        kept = report.sink_tokens + report.window_tokens + report.stored_tokens + report.dropped_tokens
        assert kept == report.seen_tokens
        return report.dropped_tokens, answer(session)


@pytest.mark.parametrize("cut", ["even", "surprise"])
def test_after_blocks_gave_way_repair_goes_back_to_the_checkpoint_before(model, tmp_path, cut):
    with made(model, tmp_path, cut, disk_budget=DISK[cut], when_full="oldest") as session:
        for at in range(0, 900, 60):
            session.feed(IDS[at : at + 60])
            session.checkpoint()
        assert session.report().dropped_tokens > 0
    library = Library(tmp_path)
    state = library.place(library.entry("one")) / library.entry("one").state
    state.write_bytes(state.read_bytes()[:-9] + b"\0" * 9)
    assert library.verify(library.entry("one"), repair=True)["damaged_files"] == [str(state)]
    assert library.verify(library.entry("one"))["damaged_files"] == []
    dropped, _ = reopened(model, tmp_path)
    assert dropped > 0
    with Session.open(tmp_path, "one", model, 32, disk_budget=DISK[cut], when_full="oldest") as session:
        session.feed(IDS[:200])
        expected = answer(session)
    with Session.open(tmp_path, "one", model, 32, read_only=True) as session:
        assert session.seen_tokens > 900
    assert library.verify(library.entry("one"))["damaged_blocks"] == []
    assert len(expected) == 12


@pytest.mark.parametrize("cut", ["even", "surprise"])
def test_pinned_forgotten_and_compacted_blocks_stay_so(model, tmp_path, cut):
    with made(model, tmp_path, cut) as session:
        session.feed(IDS[:400])
        blocks = session.stored("test")
        first, end = blocks.rows[0].block_range(5)
        session.pin((first + 1, end - 1))
        assert blocks.rows[0].pinned == {5}
        span = blocks.rows[0].block_range(8)
        assert session.forget(span).blocks == 1
        session.feed(IDS[400:500])
        assert all(5 in layer.now.chosen for layer in blocks.rows[0].layers.values())
        assert all(8 not in layer.now.chosen for layer in blocks.rows[0].layers.values())
        with pytest.raises(CapabilityError, match="dropped"):
            session.pin(span)
        session.checkpoint()
    before = reopened(model, tmp_path)
    done = Library(tmp_path).compact("one")
    assert done.after_bytes < done.before_bytes
    assert reopened(model, tmp_path) == before
    with Session.open(tmp_path, "one", model, 32) as session:
        assert session.stored("test").rows[0].pinned == {5}
        session.feed(IDS[500:600])
    assert Library(tmp_path).verify(Library(tmp_path).entry("one"))["damaged_blocks"] == []


@pytest.mark.parametrize("cut", ["even", "surprise"])
def test_forgetting_makes_room_and_pins_are_spared(model, tmp_path, cut):
    with made(model, tmp_path, cut, disk_budget=DISK[cut], when_full="oldest") as session:
        session.feed(IDS[:200])
        session.pin(session.stored("test").rows[0].block_range(0), always=False)
        session.forget(session.stored("test").rows[0].block_range(3))
        session.feed(IDS[200:])
        row = session.stored("test").rows[0]
        assert {1, 2, 3} <= row.dropped
        assert 0 not in row.dropped
    files = [p for part in ("blocks", "sessions") for p in (tmp_path / part).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= DISK[cut]
    assert reopened(model, tmp_path) == reopened(model, tmp_path)
