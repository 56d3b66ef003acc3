"""Kept and saved sessions with digests in bfloat16, or in float32 as older versions wrote: each goes on as it began."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks, Session
from everlong.engine.budgets import planned_bytes
from everlong.library import state_file as sealed
from everlong.library.library import Library
from everlong.methods.blocks.layout import digest_bytes
from everlong.methods.blocks.memory import BlockMemory
from everlong.storage.extent import digest_width
from tests.session.keeping import IDS, SMALL, answer, kept

NUMBERS = 2 * 2 * 2 * 8
"""Of the digests of one block of the tiny model: layers, kv heads, bounds, head dim."""


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


@pytest.fixture(params=["bfloat16", "float32"])
def width(request):
    """Bytes of a number: of a new stream, and of one of an older version."""
    return 2 if request.param == "bfloat16" else 4


def older(monkeypatch, width):
    """Whether new streams keep digests as older versions did."""
    monkeypatch.setattr(BlockMemory, "digest_dtype", torch.float32 if width == 4 else torch.bfloat16)


def forget_the_type(path, width):
    """Make a saved state what an older version wrote, which did not say what digests are."""
    if width == 4:
        tensors, document = sealed.read(path)
        assert document["state"]["cache"]["memory"].pop("digests") == "float32"
        assert document["format"] == 2
        sealed.write(path, tensors, document)


def make(model, store, monkeypatch, width, ids=150, **fields):
    """A session in `store` that reads `ids` tokens; what it answers then."""
    with monkeypatch.context() as patch:
        older(patch, width)
        with kept(model, store, ids, **fields) as session:
            live = answer(session.fork())
    library = Library(store)
    entry = library.entry("one")
    forget_the_type(library.place(entry) / entry.state, width)
    return live


def opened(model, store, name="one", **how):
    return Session.open(store, name, model, chunk=16, **how)


def rows_are(store, width, name="one"):
    """All bytes of a session are whole, and its digests have this width."""
    library = Library(store)
    entry = library.entry(name)
    assert library.verify(entry)["damaged_blocks"] == []
    for v in library.volumes(entry):
        if v.end > v.first:
            assert digest_width(v.path, entry.row_bytes) == NUMBERS * width + 4
    return True


def test_a_reopened_session_answers_as_before_and_goes_on_in_its_type(model, tmp_path, monkeypatch, width):
    live = make(model, tmp_path / "a", monkeypatch, width)
    expected = make(model, tmp_path / "b", monkeypatch, width, 200)
    (file,) = (tmp_path / "a").rglob("*.digests")
    with opened(model, tmp_path / "a") as session:
        blocks = session.runner.blocks
        assert answer(session.fork()) == live
        assert file.stat().st_size == blocks.rows[0].sealed * (NUMBERS * width + 4)
        assert session._checkpointer.store.digest_bytes == NUMBERS * width + 4
        assert digest_bytes(blocks.settings, blocks.plan, blocks.digest_dtype) == NUMBERS * width
        session.feed(IDS[150:200])
        assert answer(session.fork()) == expected
    assert file.stat().st_size == blocks.rows[0].sealed * (NUMBERS * width + 4)
    assert rows_are(tmp_path / "a", width)
    with opened(model, tmp_path / "a", read_only=True) as session:
        assert answer(session) == expected


def test_forks_archives_and_compacted_files_answer_as_before(model, tmp_path, monkeypatch, width):
    live = make(model, tmp_path / "a", monkeypatch, width)
    library = Library(tmp_path / "a")
    library.fork("one", "two")
    library.export("one", tmp_path / "one.tar")
    Library(tmp_path / "b").take(tmp_path / "one.tar")
    found = []
    for store, name in (("a", "one"), ("a", "two"), ("b", "one")):
        with opened(model, tmp_path / store, name) as session:
            assert answer(session.fork()) == live
            session.feed(IDS[150:200])
            session.forget((40, 61))
            found.append(answer(session.fork()))
    for store, name in (("a", "two"), ("a", "one"), ("b", "one")):
        compacted = Library(tmp_path / store).compact(name)
        assert compacted.after_bytes <= compacted.before_bytes
        assert rows_are(tmp_path / store, width, name)
        with opened(model, tmp_path / store, name) as session:
            found.append(answer(session.fork()))
            session.feed(IDS[200:230])
        assert rows_are(tmp_path / store, width, name)
    assert all(one == found[0] for one in found)


def test_damage_is_found_and_repaired(model, tmp_path, monkeypatch, width):
    expected = make(model, tmp_path, monkeypatch, width)
    (file,) = tmp_path.rglob("*.digests")
    whole = file.read_bytes()
    data = bytearray(whole)
    data[7 * (NUMBERS * width + 4) + 5] ^= 1
    file.write_bytes(data)
    library = Library(tmp_path)
    assert library.verify(library.entry("one"), repair=True)["damaged_digests"] == [7]
    assert file.read_bytes() == whole
    with opened(model, tmp_path) as session:
        assert answer(session.fork()) == expected
        assert session.report().dropped_tokens == 0


def test_a_saved_file_is_restored_with_its_own_digests(model, tmp_path, monkeypatch, width):
    with monkeypatch.context() as patch:
        older(patch, width)
        with Session(model, Blocks(**SMALL), chunk=16) as session:
            session.feed(IDS[:150])
            live = answer(session.fork())
            path = session.save(tmp_path / "one")
    forget_the_type(path, width)
    with Session.load(path, model, chunk=16) as session:
        again = session.save(tmp_path / "two")
        assert answer(session) == live
    for file in (path, again):
        found = {x.dtype for name, x in sealed.read(file)[0].items() if name.endswith(".digests")}
        assert found == {torch.float32 if width == 4 else torch.bfloat16}
    with Session.load(again, model, chunk=16) as session:
        assert answer(session) == live


def test_digests_take_half_the_bytes_of_before(model, tmp_path, monkeypatch):
    sizes, reports, planned = [], [], []
    for width in (2, 4):
        make(model, tmp_path / str(width), monkeypatch, width)
        (file,) = (tmp_path / str(width)).rglob("*.digests")
        with opened(model, tmp_path / str(width), read_only=True) as session:
            blocks = session.runner.blocks.rows[0].sealed
            sizes.append(file.stat().st_size - 4 * blocks)
            reports.append(session.report().bytes)
            planned.append(planned_bytes(session.runner, 100_000, session.chunk))
    assert sizes == [blocks * NUMBERS * 2, blocks * NUMBERS * 4]
    assert reports[1]["host"] - reports[0]["host"] == 32 * NUMBERS * 2
    assert planned[1]["disk"] - planned[0]["disk"] >= 100_000 // 5 * NUMBERS * 2
    assert planned[1]["host"] - planned[0]["host"] >= 100_000 // 5 * NUMBERS * 2


def test_budgets_count_the_wider_digests_of_an_older_stream(model, tmp_path, monkeypatch, width):
    make(model, tmp_path, monkeypatch, width)
    with opened(model, tmp_path, host_budget=45_000, when_full="oldest") as session:
        room = session._budgets.room
        assert room.digest_bytes == NUMBERS * width
        for piece in torch.tensor(IDS).split(32):
            session.feed(piece)
            assert session.report().bytes["host"] <= 45_000
        assert session.report().dropped_tokens > 0
        blocks = session.runner.blocks
        held = room.held(blocks)
        assert room.over(session._checkpointer.store, held, session.seen_tokens) is None
        assert room.over(session._checkpointer.store, 10 * held, session.seen_tokens) == "host"


def test_rows_of_an_older_version_that_no_checkpoint_names_are_not_mixed_with_new_ones(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        older(patch, 4)
        killed = Session(model, Blocks(**SMALL), chunk=16, store=tmp_path, name="one")
        killed.feed(IDS[:200])
        killed._checkpointer.store.flush()
        killed.close()
    with opened(model, tmp_path) as session:
        session.feed(IDS[:60])
    assert rows_are(tmp_path, 2)
    with opened(model, tmp_path) as session:
        session.forget((5, 15))
        expected = answer(session.fork())
    Library(tmp_path).compact("one")
    assert rows_are(tmp_path, 2)
    with opened(model, tmp_path) as session:
        assert answer(session) == expected
