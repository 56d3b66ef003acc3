"""Answers written together: each is what its own `generate` gives, whoever comes and goes beside it."""

from __future__ import annotations

import pytest
import torch

from everlong import Blocks, Dense, Session, Sinks, Window
from everlong.cache.stream import CachedStream
from everlong.engine.engine import Engine
from everlong.errors import InputError, SessionError
from tests.engine.methods import METHODS as ALL
from tests.engine.methods import SMALL

METHODS = [*ALL[:6], Sinks(sinks=1, window=30), Dense()]
TEXTS = ["Gulls cried over the pier. " * n for n in (1, 9, 4, 12, 7, 2, 20, 3)]
SAMPLING = [{}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}, {"stop": "e"}]


def settings(n):
    return {"max_new_tokens": 10 + n} | SAMPLING[n % len(SAMPLING)]


def test_eight_answers_of_different_methods_are_those_of_single_runs(tiny):
    expected = []
    for n, (method, text) in enumerate(zip(METHODS, TEXTS, strict=True)):
        with Session(tiny, method, chunk=32) as session:
            expected.append((session.generate(text, **settings(n)), session.prediction))
    engine = Engine(tokens=40)
    sessions = [Session(tiny, method, chunk=32) for method in METHODS]
    said = [[] for _ in sessions]
    requests = []
    for n, (session, text) in enumerate(zip(sessions, TEXTS, strict=True)):
        requests.append(engine.submit(session, text, said[n].append, **settings(n)))
        for _ in range(n % 3):  # they arrive while others are being written
            engine.step()
    engine.run()
    assert not engine.requests
    for n, request in enumerate(requests):
        result, prediction = expected[n]
        assert (request.result.token_ids, request.result.text) == (result.token_ids, result.text)
        assert request.result.finish == result.finish
        assert "".join(said[n]) == result.text
        torch.testing.assert_close(sessions[n].prediction, prediction, atol=1e-4, rtol=0)
    for session in sessions:
        session.close()


def test_a_cancelled_request_keeps_what_it_wrote_and_the_others_go_on(tiny):
    with Session(tiny, Dense()) as one, Session(tiny, Sinks(sinks=2, window=30)) as other:
        engine = Engine()
        first, second = engine.submit(one, "a b c", max_new_tokens=50), engine.submit(other, "d e", max_new_tokens=9)
        while second._answer is None or len(second._answer.result.token_ids) < 4:
            engine.step()
        first.cancel()
        engine.run()
        assert first.result.finish == "closed"
        assert 0 < len(first.result.token_ids) < 50
        assert one.seen_tokens == len(tiny.tokenizer("a b c").input_ids) + len(first.result.token_ids)
        assert len(second.result.token_ids) == 9


def test_a_budget_ends_one_request_alone(tiny, tmp_path):
    refused = Session(tiny, Blocks(**SMALL, recall="layer"), chunk=32, host_budget=26_000)
    with refused, Session(tiny, Dense()) as other:
        engine = Engine(tokens=64)
        full = engine.submit(refused, "Gulls cried over the pier. " * 200, max_new_tokens=3)
        fine = engine.submit(other, "d e", max_new_tokens=9)
        engine.run()
        assert full.result is None
        assert "budget" in str(full.error)
        assert len(fine.result.token_ids) == 9


def test_an_interrupt_loses_no_stream(tiny, monkeypatch):
    with Session(tiny, Dense()) as one, Session(tiny, Sinks(sinks=2, window=30)) as other:
        engine = Engine()
        requests = [engine.submit(s, text, max_new_tokens=12) for s, text in ((one, "a b c"), (other, "d e"))]
        for _ in range(4):
            engine.step()
        with monkeypatch.context() as patch:

            def interrupted(*_):
                raise KeyboardInterrupt

            patch.setattr("everlong.cache.step.ForwardPlan.attend", interrupted)
            with pytest.raises(KeyboardInterrupt):
                engine.step()
        engine.run()
        for request, method, text in zip(requests, (Dense(), Sinks(sinks=2, window=30)), ("a b c", "d e"), strict=True):
            with Session(tiny, method) as alone:
                assert request.result.token_ids == alone.generate(text, max_new_tokens=12).token_ids


def test_a_stream_that_was_committed_before_a_failure_does_not_read_its_piece_again(tiny, monkeypatch):
    with Session(tiny, Dense()) as one, Session(tiny, Dense()) as other:
        engine = Engine()
        requests = [engine.submit(session, [5, 6, 7], max_new_tokens=4) for session in (one, other)]
        commit = CachedStream.commit

        def fails(stream):
            if stream.seen_tokens == 0 and one.seen_tokens:
                raise KeyboardInterrupt
            commit(stream)

        with monkeypatch.context() as patch:
            patch.setattr(CachedStream, "commit", fails)
            with pytest.raises(KeyboardInterrupt):
                engine.step()
        assert (one.seen_tokens, other.seen_tokens) == (3, 0)
        engine.run()
        assert (one.seen_tokens, other.seen_tokens) == (3, 3 + 4)
        assert "prediction was lost by an interrupt" in str(requests[0].error)
        assert requests[1].result.finish == "length"


def test_an_interrupt_while_a_prompt_is_taken_ends_that_request_and_says_so(tiny):
    def texts():
        for _ in range(600):
            yield "the tide rose, "
        raise KeyboardInterrupt

    with Session(tiny, Window(window=20), chunk=128) as one, Session(tiny, Dense()) as other:
        engine = Engine()
        cut, fine = engine.submit(one, texts(), max_new_tokens=4), engine.submit(other, "d e", max_new_tokens=9)
        with pytest.raises(KeyboardInterrupt):
            engine.run()
        engine.run()
        assert one.seen_tokens > 0
        assert cut.result is None
        assert f"interrupted after {one.seen_tokens} tokens" in str(cut.error)
        assert len(fine.result.token_ids) == 9


def test_a_stream_is_written_by_one_request_at_a_time(tiny):
    with Session(tiny, Dense()) as session:
        engine = Engine()
        engine.submit(session, "a", max_new_tokens=2)
        with pytest.raises(SessionError, match="another request writes on this stream"):
            engine.submit(session, "b")
        engine.run()
        empty = engine.submit(session.fork(), None, max_new_tokens=2)
        engine.run()
        assert len(empty.result.token_ids) == 2


def test_nothing_to_go_on_from_is_that_requests_error(tiny):
    with Session(tiny, Dense()) as session:
        engine = Engine()
        request = engine.submit(session)
        engine.run()
        assert isinstance(request.error, InputError)


@pytest.mark.heavy(reason="the real model, alone and packed")
def test_the_default_model_writes_the_same_greedy_tokens(smollm2):
    prompts = ["The tide rose, and", "Once upon a time there"]
    expected = []
    for prompt in prompts:
        with Session(smollm2, Sinks(sinks=4, window=60)) as session:
            expected.append(session.generate(prompt, max_new_tokens=12).token_ids)
    engine = Engine()
    sessions = [Session(smollm2, Sinks(sinks=4, window=60)) for _ in prompts]
    requests = [engine.submit(s, p, max_new_tokens=12) for s, p in zip(sessions, prompts, strict=True)]
    engine.run()
    assert [request.result.token_ids for request in requests] == expected
    for session in sessions:
        session.close()
