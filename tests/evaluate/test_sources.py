"""Named parts of a context, and answers with citations that leave no trace."""

from __future__ import annotations

import pytest

from everlong import Blocks, Session
from everlong.evaluate import sources
from everlong.evaluate.stream import Clock, MethodStream
from tests.evaluate.fakes import EchoSession, EchoStream

TEXTS = [("one.txt", "The tide rose. "), ("two.txt", ""), ("one.txt", "It fell.")]


def test_parts_are_fed_under_their_names():
    context, parts = sources.joined(TEXTS)
    assert context == "The tide rose. It fell."
    stream = EchoStream()
    sources.feed(stream, context, parts)
    assert stream.fed == [(text, name) for name, text in TEXTS]


def test_a_stream_that_stores_nothing_has_no_citations():
    stream = EchoStream(lambda text, question: "high")
    assert sources.ask(stream, "How?", 3, ["."]) == ("high", None)
    assert not sources.cites(stream)
    assert (stream.asked[0].keep, stream.asked[0].stop) == (False, (".",))


@pytest.mark.parametrize("keep", [False, True])
def test_citations_are_taken_before_the_stream_goes_back(keep):
    session = EchoSession()
    stream = EchoStream(lambda text, question: " fell", session=session)
    sources.feed(stream, *sources.joined(TEXTS))
    answer, cited = sources.ask(stream, " It", 3, keep=keep)
    assert answer == " fell"
    assert [c.source for c in cited] == ["one.txt"]
    assert stream.text == "The tide rose. It fell." + " It fell" * keep
    assert stream.forks == (not keep)


def test_a_real_session_cites_and_is_as_it_was(tiny):
    method = Blocks(sinks=2, window=20, block=8, top_k=2, exec_chunk=16, pool=8, recall="layer")
    with Session(tiny, method, chunk=16) as session:
        stream = MethodStream(tiny, session, Clock())
        sources.feed(stream, *sources.joined([("one", "The tide rose and fell. " * 4), ("two", "Gulls cried. " * 4)]))
        seen = stream.seen_tokens
        first, cited = sources.ask(stream, " Who cried?", 4)
        assert {c.source for c in cited} <= {"one", "two"}
        assert sum(c.mass for c in cited) == pytest.approx(1)
        assert stream.seen_tokens == seen
        assert sources.ask(stream, " Who cried?", 4) == (first, cited)
        assert stream.clock.model_s > 0
        kept = sources.ask(stream, " Who cried?", 4, keep=True)
        assert kept == (first, cited)
        assert stream.seen_tokens > seen


def test_a_session_that_recalls_reads_passages_again(tiny):
    with Session(tiny, Blocks(sinks=2, window=20, block=8, top_k=2, exec_chunk=16, pool=8), chunk=16) as session:
        stream = MethodStream(tiny, session, Clock())
        parts = sources.joined([("one", "The tide rose and fell. " * 4), ("two", "Gulls cried over Lima. " * 4)])
        sources.feed(stream, *parts)
        seen = stream.seen_tokens
        text, cited = sources.ask(stream, " Who cried over Lima?", 4)
        assert text == session.ask(" Who cried over Lima?", raw=True, max_new_tokens=4).text
        assert {c.source for c in cited} <= {"one", "two"}
        assert stream.seen_tokens == seen
        assert stream.clock.new_tokens == 4
