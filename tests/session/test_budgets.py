"""Budgets are hard at every chunk, change no number while nothing is dropped, and what is dropped is reported."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from everlong import Blocks, Session, Sinks
from everlong.engine.budgets import Budgets
from everlong.errors import BudgetError, ConfigError, InputError
from everlong.library.library import Library
from everlong.methods.blocks.room import BlockBudget
from everlong.storage.budget import Budget
from everlong.storage.record_cache import SLAB_RECORDS
from tests.session.keeping import IDS, SMALL, answer

from .conftest import interrupt

HOST, DISK = 77_700, 409_000
"""Of a store in memory 44 blocks fit `HOST`, of one on the disk some 70 fit `DISK`."""


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def made(model, store=None, name="one", fields=(), **budgets):
    return Session(model, Blocks(**SMALL, **dict(fields)), chunk=32, store=store, name=name, **budgets)


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


def read_whole(session, ids, folder=None, cuts=32):
    """Reads chunk by chunk; the report after each is checked. Gives the last one."""
    for piece in torch.tensor(ids).split(cuts):
        session.feed(piece)
        checked(session, folder)
    return checked(session, folder)


@pytest.mark.parametrize(
    ("when_full", "fields"), [("oldest", {}), ("least-used", {"positions": "far", "digest": "mean"})]
)
def test_a_host_budget_is_hard_and_what_is_dropped_does_not_depend_on_chunks(model, when_full, fields):
    found = []
    for cuts in (32, 7, 500):
        with made(model, fields=fields, host_budget=HOST, when_full=when_full) as session:
            report = read_whole(session, IDS, cuts=cuts)
            memory = session.runner.blocks
            found.append((report.dropped_tokens, memory.rows[0].dropped, answer(session)))
            checked(session)
    assert found[0][0] > 200
    assert found[0] == found[1] == found[2]
    if when_full == "oldest":
        assert found[0][1] >= set(range(40))
    else:
        assert found[0][1] != set(range(len(found[0][1])))


def test_blocks_that_are_kept_or_pinned_are_never_given_up(model):
    with made(model, host_budget=HOST, when_full="oldest") as session:
        session.feed(IDS[:60])
        row = session.runner.blocks.rows[0]
        for block, always in ((0, False), (3, False), (1, True)):
            session.pin(session.runner.blocks.rows[0].block_range(block), always=always, keep=not always)
        session.feed(IDS[60:])
        assert {2, 4, 5} <= row.dropped
        assert not row.dropped & {0, 1, 3}
        row.kept = frozenset(range(1000))
        with pytest.raises(BudgetError, match="keep and pin less"):
            session.feed(IDS)


def test_refusing_leaves_the_session_as_it_was_and_it_can_be_asked(model, tmp_path):
    with made(model) as free, made(model, host_budget=HOST) as session:
        with pytest.raises(BudgetError, match="host_budget=77,700: no room for 32 more") as caught:
            session.feed(IDS)
        assert "\n" not in str(caught.value)
        seen = session.seen_tokens
        assert 100 < seen < 300
        assert seen % 32 == 0
        report = checked(session)
        assert report.dropped_tokens == 0
        before = session.state()[0]
        with pytest.raises(BudgetError):
            session.feed(IDS[:16])
        after = session.state()[0]
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        free.feed(IDS[:seen])
        path = free.save(tmp_path / "free")
        assert answer(session) == answer(free)
        checked(session)
    with Session.load(path, model, 32, host_budget=HOST * 2 // 3, when_full="oldest") as session:
        assert checked(session).dropped_tokens > 0
    with pytest.raises(BudgetError, match=r"no room for the 1.. tokens that are stored; give a larger host_budget"):
        Session.load(path, model, 32, host_budget=HOST * 2 // 3)


def test_what_was_forgotten_gives_its_room_before_anything_is_refused(model):
    with made(model, host_budget=HOST) as session:
        session.feed(IDS[:160])
        session.drop_blocks(range(20))
        session.feed(IDS[:96])
        assert checked(session).dropped_tokens == 100


EACH_TOKEN = {"choose_every": 1}


@pytest.fixture(scope="module")
def store_of_300(model, tmp_path_factory):
    """A store whose session has read 300 tokens."""
    folder = tmp_path_factory.mktemp("store")
    with made(model, folder, fields=EACH_TOKEN) as session:
        session.feed(IDS[:300])
    return folder


@pytest.fixture(scope="module")
def freely(model):
    """The predictions that follow without any budget, and how many blocks the last of them asked for."""
    with made(model, fields=EACH_TOKEN) as session:
        session.feed(IDS[:300])
        before, found = session.report().cache_hits, []
        for first in range(300, 360, 4):
            session.feed(IDS[first : first + 4], answering=True)
            found.append(session.prediction)
        return found, session.report().cache_hits - before


@pytest.mark.parametrize("slabs", [0, 1, 3, None])
def test_the_cache_changes_no_number(model, tmp_path, store_of_300, freely, slabs):
    """Whatever stays in memory, the predictions are the same to the bit."""
    store, (predictions, asked_freely) = tmp_path / "store", freely
    shutil.copytree(store_of_300, store)
    with Session.open(store, "one", model, 32) as session:
        memory = session.runner.blocks
        room = BlockBudget.of(memory, Budget(), 32, 0)
        one, held = SLAB_RECORDS * room.record_bytes // 2, 90
        host = None if slabs is None else room.host_bytes(session._checkpointer.store, held, 400) + slabs * one
    with Session.open(store, "one", model, 32, host_budget=host) as session:
        for first, expected in zip(range(300, 360, 4), predictions, strict=True):
            session.feed(IDS[first : first + 4], answering=True)
            assert torch.equal(session.prediction, expected)
            report = checked(session)
        asked, resident = report.cache_hits + report.cache_misses, session._checkpointer.store.resident.nbytes
        assert asked >= asked_freely > 100
        assert report.cache_misses * (one // 16 + 64) == report.read_bytes > 0
        assert resident == one * slabs if slabs in (0, 1) else resident > one
        assert report.cache_hit_rate == report.cache_hits / asked
        assert report.as_dict()["cache_hit_rate"] == report.cache_hit_rate
        assert (report.cache_hit_rate > 0.2) == (slabs != 0)
        assert report.written_bytes >= 10 * room.row_bytes


def test_few_resident_blocks_by_either_rule_change_no_number(model, tmp_path):
    """The paper's caches of so many blocks: the same predictions, other hit rates."""
    rates, seen = {}, {}
    for name, fields in {"all": {}, "lru": {"resident": 4}, "score": {"resident": 4, "evict": "score"}}.items():
        with made(model, tmp_path / name, fields={"choose_every": 1} | fields) as session:
            session.feed(IDS[:300])
        with Session.open(tmp_path / name, "one", model, 32) as session:
            session.feed(IDS[300:360], answering=True)
            resident = session._checkpointer.store.resident
            assert max(resident._held.values()) <= fields.get("resident", 99)
            rates[name], seen[name] = session.report().cache_hit_rate, session.prediction
    assert torch.equal(seen["lru"], seen["all"])
    assert torch.equal(seen["score"], seen["all"])
    assert 0 < min(rates["lru"], rates["score"]) <= max(rates["lru"], rates["score"]) < rates["all"]


@pytest.mark.parametrize("when_full", ["oldest", "least-used"])
def test_a_disk_budget_is_hard_and_places_are_used_again(model, tmp_path, when_full):
    with made(model, tmp_path, disk_budget=DISK, when_full=when_full) as session:
        report = read_whole(session, IDS * 2, tmp_path)
        live = answer(session.fork())
    assert 400 < report.dropped_tokens < 900
    budgets = {"disk_budget": DISK, "when_full": when_full}
    with Session.open(tmp_path, "one", model, 32, **budgets) as session:
        assert checked(session, tmp_path).dropped_tokens == report.dropped_tokens
        assert answer(session.fork()) == live
        read_whole(session, IDS, tmp_path)
    library = Library(tmp_path)
    assert library.verify(library.entry("one"))["damaged_blocks"] == []
    with pytest.raises(BudgetError, match="host_budget"):
        Session.open(tmp_path, "one", model, 32, read_only=True, host_budget=HOST * 2 // 5)
    with Session.open(tmp_path, "one", model, 32, disk_budget=DISK * 5 // 6, when_full="oldest") as session:
        assert checked(session).dropped_tokens > report.dropped_tokens


def test_refusing_for_the_disk_keeps_all_and_can_be_asked(model, tmp_path):
    with made(model, tmp_path, disk_budget=DISK) as session:
        with pytest.raises(BudgetError, match="disk_budget=409,000: no room for 32 more"):
            session.feed(IDS)
        seen = session.seen_tokens
    with made(model) as free:
        free.feed(IDS[:seen])
        expected = answer(free)
    with Session.open(tmp_path, "one", model, 32, disk_budget=DISK) as session:
        assert session.seen_tokens == seen
        assert answer(session) == expected
        checked(session, tmp_path)
        assert session.report().dropped_tokens == 0


def test_forks_stay_whole_when_places_are_used_again(model, tmp_path):
    budgets = {"disk_budget": DISK, "when_full": "oldest"}
    with made(model, tmp_path, **budgets) as session:
        session.feed(IDS[:280])
    Library(tmp_path).fork("one", "two")
    with Session.open(tmp_path, "two", model, 32, read_only=True) as twin:
        expected = answer(twin)
    with Session.open(tmp_path, "one", model, 32, **budgets) as session:
        session.feed(IDS[280:500])
        fork, mark = session.fork(), session.mark()
        here = answer(session.fork())
        session.feed(IDS * 2)
        dropped = session.report().dropped_tokens
        assert dropped > 800
        assert answer(fork) == here
        mark.close()
    with Session.open(tmp_path, "two", model, 32, read_only=True) as twin:
        assert answer(twin) == expected
    library = Library(tmp_path)
    for name in ("one", "two"):
        assert library.verify(library.entry(name))["damaged_blocks"] == []
    library.delete("one")
    with Session.open(tmp_path, "two", model, 32, **budgets) as twin:
        assert answer(twin.fork()) == expected
        twin.feed(IDS)
        assert checked(twin).dropped_tokens > 0


def test_archives_and_other_processes_see_places_that_were_used_again(model, tmp_path):
    with made(model, tmp_path / "a", disk_budget=DISK, when_full="least-used") as session:
        session.feed(IDS)
        expected = answer(session.fork())
    Library(tmp_path / "a").export("one", tmp_path / "one.tar")
    Library(tmp_path / "b").take(tmp_path / "one.tar")
    with Session.open(tmp_path / "b", "one", model, 32) as session:
        assert answer(session.fork()) == expected


def read_in_a_child(model, store, ids):
    """The process id of a child that reads on within a disk budget until it is done or killed."""
    child = os.fork()
    if child:
        return child
    try:
        budgets = {"disk_budget": DISK, "when_full": "least-used"}
        exists = (store / "everlong.db").exists() and Library(store).find("one") is not None
        session = Session.open(store, "one", model, 32, **budgets) if exists else made(model, store, **budgets)
        for piece in torch.tensor(ids[session.seen_tokens :]).split(64):
            session.feed(piece)
            session.checkpoint()
        os._exit(0)
    finally:
        os._exit(1)


MORE = pytest.param(20, marks=pytest.mark.slow(reason="`make test` kills five times"))


@pytest.mark.heavy(reason="what an open session holds is lost only by a real kill, and each one reopens it")
@pytest.mark.parametrize("times", [5, MORE])
def test_killed_while_dropping_it_goes_on_as_if_never_stopped(model, tmp_path, times):
    draw, ids, kills = random.Random(5), IDS * 2, 0
    begun = time.monotonic()
    assert os.waitpid(read_in_a_child(model, tmp_path / "calm", ids), 0)[1] == 0
    whole = time.monotonic() - begun
    for _ in range(times):
        child = read_in_a_child(model, tmp_path / "killed", ids)
        time.sleep(whole * draw.uniform(0.16, 1.2) / times)
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        library = Library(tmp_path / "killed")
        if library.find("one") is not None:
            assert library.verify(library.entry("one"))["damaged_blocks"] == []
    assert os.waitpid(read_in_a_child(model, tmp_path / "killed", ids), 0)[1] == 0
    assert kills > times // 2
    (folder,) = (tmp_path / "killed" / "sessions").iterdir()
    assert {p.name.partition("-")[0] for p in folder.iterdir()} == {"catalog", "ids", "lock", "state"}
    assert (
        sum(p.stat().st_size for part in ("blocks", "sessions") for p in (tmp_path / "killed" / part).rglob("*.*"))
        < DISK
    )
    found = []
    for name in ("calm", "killed"):
        with Session.open(tmp_path / name, "one", model, 32, read_only=True) as session:
            found.append((session.report().dropped_tokens, session.runner.blocks.rows[0].dropped, answer(session)))
    assert found[0] == found[1]
    assert found[0][0] > 400


def test_an_interrupt_while_blocks_give_way_damages_nothing(model, tmp_path):
    """Wherever it comes, all blocks that are not dropped are as they were, also in a file saved right after it."""
    with made(model, host_budget=HOST, when_full="oldest") as whole:
        whole.feed(IDS[:192])
        for at in (1, 9, 20, *range(30, 150, 12), 900):
            session, expected = whole.fork(), whole.fork()
            with contextlib.suppress(KeyboardInterrupt), interrupt(at):
                session._budgets.room.give_up(session.runner.blocks)
            expected.drop_blocks(session.runner.blocks.rows[0].dropped)
            found = [expected, session, Session.load(session.save(tmp_path / "saved"), model, 32)]
            for each in found:
                each._budgets = Budgets(Budget(), each.runner, 32)
                each.feed(IDS[192:224])
            assert len({each.report().dropped_tokens for each in found}) == 1
            for each in found[1:]:
                torch.testing.assert_close(each.prediction, expected.prediction, atol=1e-4, rtol=0)
            for each in found:
                each.close()


def test_budgets_without_effect_are_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="sinks stores nothing"):
        Session(model, Sinks(sinks=2, window=10), host_budget=HOST)
    with pytest.raises(ConfigError, match="disk_budget=5: nothing is written to the disk"):
        made(model, disk_budget=5)
    for budgets in ({"host_budget": 900}, {"disk_budget": 900}):
        with pytest.raises(ConfigError, match=r"_budget=900: must be at least [\d,]+ bytes"):
            made(model, tmp_path, **budgets)
    with pytest.raises(InputError, match="does not exist"):
        Session.open(tmp_path, "one", model)


ENDLESS = """
import sys
import torch
from pathlib import Path
from everlong import Blocks, Session
from tests.conftest import tiny_random_llama

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

store, budget = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
model = tiny_random_llama(num_hidden_layers=2, hidden_size=512, max_position_embeddings=512)
method = Blocks(sinks=4, window=64, block=64, top_k=4, exec_chunk=64, pool=8, codec="native")
draw, found = torch.Generator().manual_seed(1), []
with Session(model, method, chunk=64, store=store, host_budget=budget, when_full="oldest") as session:
    for step in range(int(sys.argv[3])):
        session.feed(torch.randint(97, (64,), generator=draw))
        report = session.report()
        assert report.bytes["host"] <= budget, report
        found.append(anonymous())
print(found[len(found) // 4], max(found), report.bytes["disk"], report.dropped_tokens, report.read_bytes)
"""


@pytest.mark.heavy(reason="how memory grows shows only in a new process that reads many times the budget")
def test_anonymous_memory_follows_the_host_budget(tmp_path):
    """What is read back stays in memory up to the budget, and no more of what is on the disk."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    root = Path(__file__).parents[2]
    budget = 4 * 2**20
    command = [sys.executable, "-c", ENDLESS, str(tmp_path), str(budget), "150"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    early, most, disk, _, read = map(int, done.stdout.split())
    assert disk > 8 * budget
    assert read > 2 * budget
    assert most - early < budget + 8 * 2**20, (early, most)
