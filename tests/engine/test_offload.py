"""Streams whose cache is freed and comes back: they go on as if it had never been away."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks, Session, Sinks
from everlong.errors import DamagedError
from everlong.library.library import Library
from tests.engine.methods import METHODS, SMALL
from tests.session.conftest import interrupt

TEXT = list(range(3, 95)) * 3
TURNS = ([4, 8, 1] * 9, [5], [7, 6] * 20)


def columns(session):
    """Columns of keys that the cache of a session holds, without bringing it back."""
    arenas = session._runner._cache.stream.arenas.values()
    return sum(0 if arena.keys is None else arena.keys.shape[2] for arena in arenas)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_stream_goes_on_as_if_its_cache_had_never_been_away(tiny, method):
    with Session(tiny, method, chunk=32) as ours, Session(tiny, method, chunk=32) as theirs:
        for session in (ours, theirs):
            session.feed(TEXT)
        for n, ids in enumerate(TURNS):
            assert columns(ours) > 0
            ours.offload()
            ours.offload()
            assert (columns(ours), ours.seen_tokens) == (0, theirs.seen_tokens)
            for session in (ours, theirs):
                session.feed(ids, answering=n == 1)
            assert torch.equal(ours.prediction, theirs.prediction)
        report, other = ours.report(), theirs.report()
        assert (report.stored_tokens, report.bytes["host"]) == (other.stored_tokens, other.bytes["host"])
        assert ours.generate(max_new_tokens=20).token_ids == theirs.generate(max_new_tokens=20).token_ids


def test_stored_blocks_stay_where_they_are_and_are_shared_with_forks(tiny):
    with Session(tiny, Blocks(**SMALL, recall="layer"), chunk=32) as session, session.fork() as empty:
        session.feed(TEXT)
        empty.offload()  # it has read nothing: there is nothing to free
        assert empty.feed(TEXT) == len(TEXT)
        with session.fork() as fork:
            store = fork.runner.blocks.rows[0].store
            fork.offload()
            assert fork.feed([5, 6]) == 2
            assert fork.runner.blocks.rows[0].store is store
            session.offload()
            with session.fork() as second:
                assert torch.equal(second.prediction, session.prediction)


def test_a_kept_session_lies_in_its_store_meanwhile(tiny, tmp_path):
    method = Blocks(**SMALL, recall="layer")
    with Session(tiny, method, chunk=32) as theirs, Session(tiny, method, chunk=32, store=tmp_path, name="a") as ours:
        for session in (ours, theirs):
            session.feed(TEXT)
        ours.offload()
        assert Library(tmp_path).entry("a").tokens == len(TEXT)
        with Session.open(tmp_path, "a", tiny, chunk=32, read_only=True) as reader:
            fork = reader.fork()
            for one in (reader, fork):  # their blocks lie in files that are not theirs
                one.offload()
                one.feed([5, 6])
            assert torch.equal(reader.prediction, fork.prediction)
            fork.close()
        for session in (ours, theirs):
            session.feed([5, 6, 7])
        assert torch.equal(ours.prediction, theirs.prediction)
        ours.offload()
        theirs.generate(max_new_tokens=30)
        ours.generate(max_new_tokens=30)
        assert torch.equal(ours.prediction, theirs.prediction)
    with Session.open(tmp_path, "a", tiny, chunk=32) as again:
        assert again.seen_tokens == len(TEXT) + 33


def test_a_damaged_checkpoint_is_named_when_the_session_comes_back(tiny, tmp_path):
    with Session(tiny, Sinks(sinks=2, window=20), store=tmp_path, name="a") as session:
        session.feed(TEXT)
        session.offload()
        state = next(session._checkpointer.folder.glob("state-*"))
        whole = state.read_bytes()
        state.write_bytes(whole[:-1] + b"?")
        with pytest.raises(DamagedError, match="state-1"):
            session.feed([5])
        state.write_bytes(whole)
        assert session.feed([5]) == 1


@pytest.mark.parametrize("method", [Sinks(sinks=3, window=17), Blocks(**SMALL, recall="layer")], ids=str)
def test_an_interrupt_at_any_line_loses_nothing(tiny, method):
    with Session(tiny, method, chunk=32) as session:
        session.feed(TEXT)
        with session.fork() as fork:
            fork.feed([5])
            expected = fork.prediction

        def away_and_back(stream):
            stream.offload()
            stream.feed([])

        with session.fork() as counted, interrupt() as lines:
            away_and_back(counted)
        for at in range(1, lines[0], max(1, lines[0] // 25)):
            with session.fork() as fork:
                with pytest.raises(KeyboardInterrupt), interrupt(at):
                    away_and_back(fork)
                fork.feed([5])
                assert torch.equal(fork.prediction, expected)
