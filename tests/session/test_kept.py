"""Sessions kept in a store: the same next token after a restart or a fork; damage is never a silent fresh start."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import time

import pytest
import torch

from everlong import Blocks, Session, Sinks
from everlong.errors import DamagedError, ForeignError, InputError, SaveError, SessionError
from everlong.library.library import Library
from tests.session.keeping import IDS, SMALL, answer, kept


@pytest.fixture(scope="module")
def model(tiny_llama):
    return tiny_llama(num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)


def feed_and_keep(session, ids):
    session.feed(ids)
    session.checkpoint()


def expected(model, ids=150, **fields):
    with Session(model, Blocks(**(SMALL | fields)), chunk=16) as session:
        session.feed(IDS[:ids])
        return answer(session)


@pytest.mark.parametrize("fields", [{}, {"positions": "ordered"}, {"digest": "mean"}, {"codec": "int8"}])
def test_a_reopened_session_gives_the_same_tokens(model, tmp_path, fields):
    with kept(model, tmp_path, **fields) as session:
        live = answer(session.fork())
    assert live == expected(model, **fields)
    for read_only in (True, False):
        with Session.open(tmp_path, "one", model, chunk=16, read_only=read_only) as session:
            assert session.seen_tokens == 150
            assert session.transcript.ids.tolist() == IDS[:150]
            assert answer(session.fork()) == live
            assert session.report().bytes["disk"] > 0


def test_reading_goes_on_after_reopening(model, tmp_path):
    with kept(model, tmp_path, 70):
        pass
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        session.feed(IDS[70:150])
    with Session.open(tmp_path, "one", model, chunk=16, read_only=True) as session:
        assert answer(session) == expected(model)
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.seen_tokens == 150


def test_what_came_after_the_last_checkpoint_is_read_again(model, tmp_path):
    session = kept(model, tmp_path, 70)
    session.feed(IDS[100:260])
    session.close()
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.seen_tokens == 70
        session.feed(IDS[70:150])
        assert answer(session.fork()) == expected(model)


def test_forks_share_blocks_and_deleting_one_leaves_the_other(model, tmp_path):
    with kept(model, tmp_path, 150):
        pass
    library = Library(tmp_path)
    before = sum(p.stat().st_size for p in (tmp_path / "blocks").iterdir())
    library.fork("one", "two")
    assert sum(p.stat().st_size for p in (tmp_path / "blocks").iterdir()) == before
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        session.feed(IDS[:60])
    library.delete("one")
    with Session.open(tmp_path, "two", model, chunk=16) as session:
        assert answer(session.fork()) == expected(model)
        session.feed(IDS[150:200])
    with Session.open(tmp_path, "two", model, chunk=16, read_only=True) as session:
        assert answer(session) == expected(model, 200)
    library.rename("two", "three")
    assert [e.name for e in library.entries()] == ["three"]
    library.delete("three")
    assert not list((tmp_path / "blocks").iterdir())
    assert not list((tmp_path / "sessions").iterdir())


def test_only_one_process_writes(model, tmp_path):
    with kept(model, tmp_path):
        with pytest.raises(SessionError, match="another process is writing"):
            Session.open(tmp_path, "one", model)
        with Session.open(tmp_path, "one", model, read_only=True) as reader:
            assert answer(reader)
            with pytest.raises(SessionError, match="open for reading only"):
                reader.checkpoint()


def test_names_models_and_methods_are_checked(model, tiny_llama, tmp_path):
    with pytest.raises(InputError, match="holds no kept sessions"):
        Session.open(tmp_path / "none", "one", model)
    with kept(model, tmp_path) as session, pytest.raises(SessionError, match="only goes forward"):
        session.reset()
    with pytest.raises(InputError, match="'two': does not exist"):
        Session.open(tmp_path, "two", model)
    with pytest.raises(SessionError, match="exists already"):
        kept(model, tmp_path)
    other = tiny_llama(seed=5, num_hidden_layers=2, max_position_embeddings=64, initializer_range=0.3)
    with pytest.raises(ForeignError, match="another model weights"):
        Session.open(tmp_path, "one", other)
    with sqlite3.connect(tmp_path / "everlong.db") as db:
        db.execute("UPDATE facts SET value = '0' WHERE name = 'format'")
    with pytest.raises(ForeignError, match="a store of format 0"):
        Session.open(tmp_path, "one", model)


@pytest.mark.parametrize("part", ["blocks", "digests", "state", "ids", "db"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damage_is_an_error_and_never_a_fresh_start(model, tmp_path, part, how):
    with kept(model, tmp_path):
        pass
    files = {p.suffix[1:] or p.name.partition("-")[0]: p for p in sorted(tmp_path.rglob("*")) if p.is_file()}
    path = files[part]
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        for at in range(0, len(data), 97):
            data[at] ^= 0x55
        path.write_bytes(data)
    with pytest.raises((DamagedError, InputError, SaveError)) as caught, contextlib.ExitStack() as stack:
        answer(stack.enter_context(Session.open(tmp_path, "one", model, chunk=16, read_only=True)))
    assert "\n" not in str(caught.value)


def test_digests_are_read_when_a_question_needs_them(model, tmp_path):
    with kept(model, tmp_path) as session:
        live = answer(session.fork())
    (path,) = tmp_path.rglob("*.digests")
    whole = path.read_bytes()
    with Session.open(tmp_path, "one", model, chunk=16, read_only=True) as session:
        promised = session.report().bytes["host"]
        path.write_bytes(bytes(len(whole)))
        with pytest.raises(DamagedError, match="verify NAME --repair"):
            session.feed(IDS[200:210], answering=True)
        assert session.seen_tokens == 150
        path.write_bytes(whole)
        assert answer(session.fork()) == live
        assert session.report().bytes["host"] >= promised > 0


def test_a_full_disk_keeps_the_last_checkpoint(model, tmp_path, monkeypatch):
    session = kept(model, tmp_path, 70)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        session.feed(IDS[70:80])
        with pytest.raises(SaveError, match="No space left"):
            feed_and_keep(session, IDS[80:200])
    session.close()
    with Session.open(tmp_path, "one", model, chunk=16) as session:
        assert session.seen_tokens == 70
        session.feed(IDS[70:150])
        assert answer(session.fork()) == expected(model)


def test_citations_name_source_and_characters(smollm2):
    loaded = smollm2
    filler = "The grass is green. The sky is blue. " * 12
    text = f"{filler}The pass key is 71432. Remember it. {filler}"
    method = Blocks(sinks=4, window=48, block=32, top_k=2, exec_chunk=32, pool=8, codec="native")
    with Session(loaded, method) as session:
        session.feed("A preface of another kind.\n", source="preface.txt")
        session.feed(text, source="keys.txt")
        session.generate(" What is the pass key? The pass key is", max_new_tokens=2)
        found = session.citations(top=20)
    assert found
    assert sum(c.mass for c in found) <= 1 + 1e-6
    assert all(a.mass >= b.mass for a, b in itertools.pairwise(found))
    for c in found:
        if c.source == "keys.txt":
            assert text[c.start : c.end] == c.text


def read_in_a_child(model, store, ids, every):
    """The process id of a child that reads on, with a checkpoint every few tokens, until it is done or killed."""
    child = os.fork()
    if child:
        return child
    try:
        exists = (store / "everlong.db").exists() and Library(store).find("one") is not None
        session = Session.open(store, "one", model, 16) if exists else kept(model, store, 0)
        for piece in torch.tensor(ids[session.seen_tokens :]).split(every):
            session.feed(piece)
            session.checkpoint()
        os._exit(0)
    finally:
        os._exit(1)


MORE = pytest.param(20, marks=pytest.mark.slow(reason="`make test` kills five times"))


@pytest.mark.heavy(reason="what an open session holds is lost only by a real kill, and each one reopens it")
@pytest.mark.parametrize("times", [5, MORE])
def test_killed_at_random_moments_it_goes_on_as_if_never_stopped(model, tmp_path, times):
    draw, ids, kills = random.Random(4), IDS * (2 if times == 5 else 8), 0
    begun = time.monotonic()
    assert os.waitpid(read_in_a_child(model, tmp_path / "calm", ids, 40), 0)[1] == 0
    whole = time.monotonic() - begun
    for _ in range(times):
        child = read_in_a_child(model, tmp_path / "killed", ids, 40)
        time.sleep(whole * draw.uniform(0, 1.2) / times)
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert kills == times
    assert os.waitpid(read_in_a_child(model, tmp_path / "killed", ids, 40), 0)[1] == 0
    answers = []
    for name in ("calm", "killed"):
        with Session.open(tmp_path / name, "one", model, 16, read_only=True) as session:
            assert session.seen_tokens == len(ids)
            assert session.transcript.ids.tolist() == ids
            answers.append(answer(session))
    assert answers[0] == answers[1]
    library = Library(tmp_path / "killed")
    assert library.verify(library.entry("one"))["damaged_blocks"] == []


@pytest.mark.parametrize("fails", [None, "create", "swap"])
def test_a_session_without_blocks_goes_back_on_the_disk_too(model, tmp_path, monkeypatch, fails):
    with Session(model, Sinks(sinks=2, window=20), store=tmp_path, name="one") as session:
        feed_and_keep(session, IDS[:60])
        mark = session.mark()
        feed_and_keep(session, IDS[60:150])
        session.rewind(mark)
        session.feed(IDS[300:310])
        if fails is not None:
            with monkeypatch.context() as broken:
                broken.setattr(Library, fails, full)
                with pytest.raises(SaveError, match="no room"):
                    session.checkpoint()
            assert Library(tmp_path).entry("one").tokens == 150
        session.checkpoint()
        feed_and_keep(session, IDS[310:320])
        expected = answer(session)
        session.rewind(mark)
        mark.close()
    library = Library(tmp_path)
    assert [e.name for e in library.entries()] == ["one"]
    assert not library.verify(library.entry("one"))["damaged_files"]
    with Session.open(tmp_path, "one", model) as session:
        assert session.transcript.ids.tolist() == IDS[:60]
        session.feed(IDS[300:320])
        assert answer(session) == expected


def full(*call):
    raise SaveError("no room")
