"""Budgets are hard at every chunk, change no number while nothing is dropped, and what is dropped is reported."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch

from everlong import Blocks, Session, Sinks
from everlong.errors import BudgetError, ConfigError, InputError
from everlong.session.library import Library

SMALL = {"sinks": 3, "window": 12, "block": 5, "top_k": 3, "repr_topk": 2, "exec_chunk": 16, "pool": 6}
IDS = torch.randint(97, (700,), generator=torch.Generator().manual_seed(3)).tolist()
HOST, DISK = 60_000, 240_000
"""Of a store in memory some 30 blocks fit `HOST`, of one on the disk some 60 fit `DISK`."""


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def made(model, store=None, name="one", fields=(), **budgets):
    return Session(model, Blocks(**SMALL, **dict(fields)), chunk=16, store=store, name=name, **budgets)


def answer(session):
    return session.generate(IDS[200:210], max_new_tokens=12).token_ids


def checked(session, folder=None):
    """The report, which adds up and stays within the budgets; so do the files in `folder`."""
    report = session.report()
    assert report.seen_tokens == (
        report.sink_tokens + report.window_tokens + report.stored_tokens + report.dropped_tokens
    )
    for tier, limit in report.budget_bytes.items():
        assert report.bytes[tier] <= limit, (tier, report.bytes)
    if folder is not None:
        files = [p for part in ("blocks", "sessions") for p in (folder / part).rglob("*") if p.is_file()]
        assert sum(p.stat().st_size for p in files) <= report.budget_bytes["disk"]
    return report


def read_whole(session, ids, folder=None, cuts=16):
    """Reads chunk by chunk; the report after each is checked. Gives the last one."""
    for piece in torch.tensor(ids).split(cuts):
        session.feed(piece)
        checked(session, folder)
    return checked(session, folder)


@pytest.mark.parametrize("when_full", ["oldest", "least-used"])
@pytest.mark.parametrize("fields", [{}, {"positions": "far", "digest": "mean"}])
def test_a_host_budget_is_hard_and_what_is_dropped_does_not_depend_on_chunks(model, when_full, fields):
    found = []
    for cuts in (16, 5, 700):
        with made(model, fields=fields, host_budget=HOST, when_full=when_full) as session:
            report = read_whole(session, IDS, cuts=cuts)
            memory = session._open().blocks
            found.append((report.dropped_tokens, memory.rows[0].dropped, answer(session)))
            checked(session)
    assert found[0][0] > 300
    assert found[0] == found[1] == found[2]
    if when_full == "oldest":
        assert found[0][1] >= set(range(60))
    else:
        assert found[0][1] != set(range(len(found[0][1])))


def test_blocks_that_are_kept_or_pinned_are_never_given_up(model):
    with made(model, host_budget=HOST, when_full="oldest") as session:
        session.feed(IDS[:60])
        row = session._open().blocks.rows[0]
        row.kept, row.pinned = frozenset({0, 3}), frozenset({1})
        session.feed(IDS[60:])
        assert {2, 4, 5} <= row.dropped
        assert not row.dropped & {0, 1, 3}
        session.checkpoint if session._keeper else None
        row.kept = frozenset(range(1000))
        with pytest.raises(BudgetError, match="keep and pin less"):
            session.feed(IDS)


def test_refusing_leaves_the_session_as_it_was_and_it_can_be_asked(model):
    with made(model) as free, made(model, host_budget=HOST) as session:
        with pytest.raises(BudgetError, match="host_budget=60,000: no room for 16 more") as caught:
            session.feed(IDS)
        assert "\n" not in str(caught.value)
        seen = session.seen_tokens
        assert 100 < seen < 300
        assert seen % 16 == 0
        report = checked(session)
        assert report.dropped_tokens == 0
        before = session.state()[0]
        with pytest.raises(BudgetError):
            session.feed(IDS[:16])
        after = session.state()[0]
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        free.feed(IDS[:seen])
        assert answer(session) == answer(free)
        checked(session)


def test_what_was_forgotten_gives_its_room_before_anything_is_refused(model):
    with made(model, host_budget=HOST) as session:
        session.feed(IDS[:130])
        session.drop_blocks(range(20))
        session.feed(IDS[:100])
        assert checked(session).dropped_tokens == 100


@pytest.mark.parametrize("slabs", [0, 1, 3, None])
def test_the_cache_changes_no_number(model, tmp_path, slabs):
    """Whatever stays in memory, the predictions are the same to the bit; hits and misses add up."""
    with made(model) as free, made(model, tmp_path) as session:
        free.feed(IDS[:300])
        session.feed(IDS[:300])
        session.checkpoint()
        store = session._keeper.store
        one = store.resident.record_bytes * 16
        host = None if slabs is None else session._open().blocks.bytes()["host"] - store.nbytes + slabs * one
    if host is not None:
        with Session.open(tmp_path, "one", model, 16, read_only=True) as session:
            with pytest.raises(ConfigError, match="host_budget=.*must be at least"):
                Session.open(tmp_path, "one", model, 16, read_only=True, host_budget=1000)
            queue = _queue_bytes(session, model)
        host += queue
    with made(model) as free, Session.open(tmp_path, "one", model, 16, host_budget=host) as session:
        free.feed(IDS[:300])
        for first in range(300, 400, 4):
            ids = IDS[first : first + 4]
            assert torch.equal(session.score(ids, logits=True)[1], free.score(ids, logits=True)[1])
            report = checked(session)
        assert report.cache_misses > 0
        assert report.cache_hits + report.cache_misses == free.report().cache_hits
        assert report.read_bytes > 0
        assert report.written_bytes > 0
        assert (report.cache_hits > 100) == (slabs != 0)
        assert report.as_dict()["cache_hit_rate"] == report.cache_hits / (report.cache_hits + report.cache_misses)


def _queue_bytes(session, model):
    from everlong.memory.blocks.room import Room
    from everlong.memory.budget import Budget

    room = Room.of(session._open().blocks, Budget(), 16, 0)
    return room.queue_rows * room.row_bytes


@pytest.mark.parametrize("when_full", ["oldest", "least-used"])
def test_a_disk_budget_is_hard_and_places_are_used_again(model, tmp_path, when_full):
    with made(model, tmp_path, disk_budget=DISK, when_full=when_full) as session:
        report = read_whole(session, IDS * 2, tmp_path)
        live = answer(session.fork())
    assert 500 < report.dropped_tokens < 1300
    with made(model, host_budget=10**9) as free:
        free.feed(IDS * 2)
        assert free.report().dropped_tokens == 0
    budgets = {"disk_budget": DISK, "when_full": when_full}
    with Session.open(tmp_path, "one", model, 16, **budgets) as session:
        assert checked(session, tmp_path).dropped_tokens == report.dropped_tokens
        assert answer(session.fork()) == live
        read_whole(session, IDS, tmp_path)
    library = Library(tmp_path)
    assert library.verify(library.entry("one"))["damaged_blocks"] == []
    with pytest.raises(BudgetError, match="host_budget"):
        Session.open(tmp_path, "one", model, 16, read_only=True, host_budget=HOST // 2)
    with Session.open(tmp_path, "one", model, 16, disk_budget=DISK * 2 // 3, when_full="oldest") as session:
        assert checked(session).dropped_tokens > report.dropped_tokens


def test_refusing_for_the_disk_keeps_all_and_can_be_asked(model, tmp_path):
    with made(model, tmp_path, disk_budget=DISK) as session:
        with pytest.raises(BudgetError, match="disk_budget=240,000: no room for 16 more"):
            session.feed(IDS)
        seen = session.seen_tokens
    with made(model) as free:
        free.feed(IDS[:seen])
        expected = answer(free)
    with Session.open(tmp_path, "one", model, 16, disk_budget=DISK) as session:
        assert session.seen_tokens == seen
        assert answer(session) == expected
        checked(session, tmp_path)
        assert session.report().dropped_tokens == 0


def test_forks_stay_whole_when_places_are_used_again(model, tmp_path):
    budgets = {"disk_budget": DISK, "when_full": "oldest"}
    with made(model, tmp_path, **budgets) as session:
        session.feed(IDS[:280])
    Library(tmp_path).fork("one", "two")
    with Session.open(tmp_path, "two", model, 16, read_only=True) as twin:
        expected = answer(twin)
    with Session.open(tmp_path, "one", model, 16, **budgets) as session:
        session.feed(IDS[280:500])
        fork, mark = session.fork(), session.mark()
        here = answer(session.fork())
        session.feed(IDS * 2)
        dropped = session.report().dropped_tokens
        assert dropped > 1000
        assert answer(fork) == here
        mark.close()
    with Session.open(tmp_path, "two", model, 16, read_only=True) as twin:
        assert answer(twin) == expected
    library = Library(tmp_path)
    for name in ("one", "two"):
        assert library.verify(library.entry(name))["damaged_blocks"] == []
    library.delete("one")
    with Session.open(tmp_path, "two", model, 16, **budgets) as twin:
        assert answer(twin.fork()) == expected
        twin.feed(IDS)
        assert checked(twin).dropped_tokens > 0


def test_archives_and_other_processes_see_places_that_were_used_again(model, tmp_path):
    with made(model, tmp_path / "a", disk_budget=DISK, when_full="least-used") as session:
        session.feed(IDS)
        expected = answer(session.fork())
    Library(tmp_path / "a").export("one", tmp_path / "one.tar")
    Library(tmp_path / "b").take(tmp_path / "one.tar")
    with Session.open(tmp_path / "b", "one", model, 16) as session:
        assert answer(session.fork()) == expected


def read_in_a_child(model, store, ids):
    """The process id of a child that reads on within a disk budget until it is done or killed."""
    child = os.fork()
    if child:
        return child
    try:
        budgets = {"disk_budget": DISK, "when_full": "least-used"}
        exists = (store / "everlong.db").exists() and Library(store).find("one") is not None
        session = Session.open(store, "one", model, 16, **budgets) if exists else made(model, store, **budgets)
        for piece in torch.tensor(ids[session.seen_tokens :]).split(48):
            session.feed(piece)
            session.checkpoint()
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_while_dropping_it_goes_on_as_if_never_stopped(model, tmp_path):
    draw, ids = random.Random(5), IDS * 3
    begun = time.monotonic()
    assert os.waitpid(read_in_a_child(model, tmp_path / "calm", ids), 0)[1] == 0
    whole = time.monotonic() - begun
    for _ in range(8):
        child = read_in_a_child(model, tmp_path / "killed", ids)
        time.sleep(whole * draw.uniform(0.02, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        library = Library(tmp_path / "killed")
        if library.find("one") is not None:
            assert library.verify(library.entry("one"))["damaged_blocks"] == []
    assert os.waitpid(read_in_a_child(model, tmp_path / "killed", ids), 0)[1] == 0
    found = []
    for name in ("calm", "killed"):
        with Session.open(tmp_path / name, "one", model, 16, read_only=True) as session:
            found.append((session.report().dropped_tokens, session._open().blocks.rows[0].dropped, answer(session)))
    assert found[0] == found[1]
    assert found[0][0] > 1000


def test_budgets_without_effect_are_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="sinks stores nothing"):
        Session(model, Sinks(sinks=2, window=10), host_budget=HOST)
    with pytest.raises(ConfigError, match="disk_budget=5: nothing is kept on the disk"):
        made(model, disk_budget=5)
    for budgets in ({"host_budget": 900}, {"disk_budget": 900}):
        with pytest.raises(ConfigError, match=r"_budget=900: must be at least [\d,]+ bytes"):
            made(model, tmp_path, **budgets)
    with pytest.raises(InputError, match="does not exist"):
        Session.open(tmp_path, "one", model)
