"""More answers than fit: those that wait are offloaded and come back, and each is what it would be alone."""

from __future__ import annotations

import pytest

from everlong import Session, Sinks
from everlong.engine.engine import Engine
from everlong.errors import SaveError
from everlong.library.library import Library
from tests.engine.test_engine import METHODS, TEXTS, settings
from tests.engine.test_offload import columns

MANY = METHODS[2:6]


def test_answers_that_give_way_are_those_of_single_runs(tiny):
    expected = []
    texts = TEXTS[: len(MANY)]
    for n, (method, text) in enumerate(zip(MANY, texts, strict=True)):
        with Session(tiny, method, chunk=32) as session:
            session.feed(text)
            expected.append(session.generate(text, **settings(n)).token_ids)
    engine = Engine(tokens=40, streams=2, turn=3)
    sessions = [Session(tiny, method, chunk=32) for method in MANY]
    for session, text in zip(sessions, texts, strict=True):
        session.feed(text)
    requests = [engine.submit(s, t, **settings(n)) for n, (s, t) in enumerate(zip(sessions, texts, strict=True))]
    moves = 0
    before = set(range(len(sessions)))
    while engine.step():
        live = {n for n, session in enumerate(sessions) if columns(session)}
        assert sum(not requests[n].done for n in live) <= 2
        moves += len(live - before)
        before = live
    assert moves > 10
    assert [request.result.token_ids for request in requests] == expected
    for session in sessions:
        session.close()


def test_a_kept_session_that_gives_way_is_checkpointed(tiny, tmp_path):
    methods = (Sinks(sinks=2, window=30), METHODS[3])
    with (
        Session(tiny, methods[0], store=tmp_path, name="a") as one,
        Session(tiny, methods[1], store=tmp_path, name="b") as other,
    ):
        engine = Engine(streams=1, turn=4)
        requests = [engine.submit(session, "the tide rose", max_new_tokens=20) for session in (one, other)]
        for _ in range(6):
            engine.step()
        assert 0 < Library(tmp_path).entry("a").tokens == one.keeping.tokens < 20
        engine.run()
    for name, method, request in zip("ab", methods, requests, strict=True):
        with Session(tiny, method) as alone, Session.open(tmp_path, name, tiny) as again:
            assert request.result.token_ids == alone.generate("the tide rose", max_new_tokens=20).token_ids
            assert again.seen_tokens == alone.seen_tokens


def test_one_that_cannot_be_kept_ends_alone(tiny, tmp_path, monkeypatch):
    with Session(tiny, METHODS[2], store=tmp_path, name="a") as one, Session(tiny, METHODS[2]) as other:
        engine = Engine(streams=1, turn=4)
        kept, plain = (engine.submit(session, "the tide rose", max_new_tokens=12) for session in (one, other))
        with monkeypatch.context() as patch:

            def full(*_):
                raise SaveError("no room")

            patch.setattr("everlong.library.state_file.write", full)
            engine.run()
        assert isinstance(kept.error, SaveError)
        assert plain.result.finish == "length"
        assert one.generate(max_new_tokens=3).finish == "length"


def test_an_answer_that_waits_is_cancelled_where_it_is(tiny):
    with Session(tiny, METHODS[2]) as one, Session(tiny, METHODS[0]) as other:
        engine = Engine(streams=1, turn=4)
        requests = [engine.submit(session, "a b c", max_new_tokens=20) for session in (one, other)]
        for _ in range(6):
            engine.step()
        assert columns(one) == 0
        requests[0].cancel()
        assert columns(one) == 0
        assert (requests[0].result.finish, len(requests[0].result.token_ids)) == ("closed", 3)
        engine.run()
        with Session(tiny, METHODS[2]) as alone:
            assert requests[0].result.token_ids == alone.generate("a b c", max_new_tokens=3).token_ids
            assert one.generate(max_new_tokens=5).token_ids == alone.generate(max_new_tokens=5).token_ids


def test_a_stream_that_waits_may_be_looked_at(tiny):
    with Session(tiny, METHODS[3]) as one, Session(tiny, METHODS[0]) as other:
        engine = Engine(streams=1, turn=2)
        requests = [engine.submit(session, "the tide rose", max_new_tokens=9) for session in (one, other)]
        while engine.step():
            for session in (one, other):
                assert session.report().seen_tokens == session.seen_tokens
        for method, request in zip((METHODS[3], METHODS[0]), requests, strict=True):
            with Session(tiny, method) as alone:
                assert request.result.token_ids == alone.generate("the tide rose", max_new_tokens=9).token_ids


@pytest.mark.parametrize("fails", ["away", "back"])
def test_an_interrupt_while_a_stream_gives_way_loses_nothing(tiny, monkeypatch, fails):
    with Session(tiny, METHODS[3]) as one, Session(tiny, METHODS[2]) as other:
        engine = Engine(streams=1, turn=3)
        requests = [engine.submit(session, "the tide rose", max_new_tokens=9) for session in (one, other)]

        def interrupted(*_):
            raise KeyboardInterrupt

        where = {"away": "everlong.cache.stream.CachedStream.reset", "back": "everlong.engine.offload.load_stream"}
        with monkeypatch.context() as patch:
            patch.setattr(where[fails], interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.run()
        engine.run()
        for method, request in zip((METHODS[3], METHODS[2]), requests, strict=True):
            with Session(tiny, method) as alone:
                assert request.result.token_ids == alone.generate("the tide rose", max_new_tokens=9).token_ids
