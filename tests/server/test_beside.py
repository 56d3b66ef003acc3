"""Sessions are opened, made, copied and removed beside the engine's steps, which go on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import httpx
import pytest

from everlong import Blocks
from everlong.library.library import Library
from everlong.server.opening import Opener
from everlong.server.worker import Left
from everlong.session.recall import Ballot
from tests.server.conftest import SMALL
from tests.server.test_load import body


@pytest.fixture
def threads(monkeypatch):
    """The threads in which sessions were opened, and files of theirs changed."""
    found = {}

    def watched(owner, name):
        function = getattr(owner, name)

        def called(*args, **fields):
            found.setdefault(name, set()).add(threading.current_thread().name)
            return function(*args, **fields)

        monkeypatch.setattr(owner, name, called)

    for name in ("create", "rename", "fork", "delete", "bytes"):
        watched(Library, name)
    watched(Opener, "_begin")
    return found


def test_the_engines_thread_waits_for_no_files(serve, threads):
    client = serve()
    client.send("POST", "/v1/sessions", json={"name": "a"})
    client.chat("One.", session="a")
    client.send("POST", "/v1/sessions/a/fork", json={"name": "b"})
    client.send("PATCH", "/v1/sessions/b", json={"name": "c"})
    assert client.send("GET", "/v1/sessions/c").json()["memory"]["seen_tokens"] > 0
    assert [session["id"] for session in client.send("GET", "/v1/sessions").json()["data"]] == ["c", "a"]
    client.send("DELETE", "/v1/sessions/c")
    assert set(threads) == {"create", "rename", "fork", "delete", "bytes", "_begin"}
    assert not any("everlong-engine" in names for names in threads.values()), threads


@pytest.fixture
def held(monkeypatch):
    """Lets sessions be opened only when it is set; whether one waits."""
    may, waits = threading.Event(), threading.Event()
    begin = Opener._begin

    def waiting(opener, name):
        waits.set()
        assert may.wait(30)
        return begin(opener, name)

    monkeypatch.setattr(Opener, "_begin", waiting)
    yield may, waits
    may.set()


def nothing(session):
    """What does nothing with a session."""
    return
    yield


def test_answers_go_on_while_a_session_is_opened(serve, held):
    may, waits = held
    client = serve()

    async def sent():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
            opening = asyncio.create_task(http.post("/v1/chat/completions", json=body("One.", session="a")))
            assert await asyncio.to_thread(waits.wait, 30)
            other = await http.post("/v1/chat/completions", json=body("Two."))
            assert not opening.done()
            may.set()
            return other, await opening

    assert [answer.status_code for answer in asyncio.run(sent())] == [200, 200]


def test_a_session_is_closed_again_whose_client_leaves_while_it_is_opened(serve, held):
    may, waits = held
    client = serve()
    service = client.service
    ticket = service.submit(lambda: service.jobs.with_session("a", nothing, create=True))
    assert waits.wait(30)
    ticket.leave()
    may.set()
    with pytest.raises(Left):
        ticket.future.result(30)
    assert "a" not in service.kept.open
    # Its lock is free: it can be opened.
    assert client.chat("One.", session="a").status_code == 200


def test_what_is_done_beside_counts_though_its_client_leaves(serve):
    worker = serve().service.worker
    begun, may = threading.Event(), threading.Event()
    undone = []

    def work():
        begun.set()
        return may.wait(30)

    def left(undo):
        ticket = worker.submit(lambda: worker.beside(work, undo))
        assert begun.wait(30)
        ticket.leave()
        may.set()
        return ticket.future.exception(30) or ticket.future.result()

    assert left(None) is True
    begun.clear()
    may.clear()
    assert isinstance(left(undone.append), Left)
    assert undone == [True]


def test_room_is_kept_for_those_that_are_being_opened(serve, held):
    may, waits = held
    client = serve(memory_bytes=10_000_000)
    service = client.service
    parking = service.parking
    with parking.expecting(9_000_000), parking.expecting(2_000_000):
        assert parking._over
    assert not parking._over
    may.set()
    client.chat("One.", session="s-0")
    assert service.kept.open.largest_bytes > 0
    may.clear()
    waits.clear()
    ticket = service.submit(lambda: service.jobs.with_session("s-1", nothing, create=True))
    assert waits.wait(30)
    assert parking._expected_bytes == service.kept.open.largest_bytes
    ticket.leave()
    may.set()
    with pytest.raises(Left):
        ticket.future.result(30)
    assert parking._expected_bytes == 0


def test_a_turn_that_is_noted_waits_for_no_state_that_is_written(serve):
    worker = serve().service.worker
    may = threading.Event()
    slow = worker.submit(lambda: worker.beside(lambda: may.wait(30)))
    quick: Future = worker.submit(lambda: worker.beside(lambda: "noted")).future
    assert quick.result(10) == "noted"
    assert not slow.future.done()
    may.set()
    assert slow.future.result(10)


def test_votes_for_a_question_are_counted_once_and_beside(serve, monkeypatch):
    counted = []
    begun = Ballot.__init__

    def watched(ballot, *args, **fields):
        counted.append(threading.current_thread().name)
        begun(ballot, *args, **fields)

    monkeypatch.setattr(Ballot, "__init__", watched)
    client = serve(Blocks(**SMALL | {"window": 150}))
    text = "".join(f"Room {n} is painted in colour {n * 7 % 50}. " for n in range(40))
    client.send("POST", "/v1/sessions/a/documents", files={"file": ("rooms.txt", text)})
    for again in (None, None, 0):
        answer = client.chat("Which colour is room 7 painted in?", session="a", again=again)
        assert answer.status_code == 200, answer.text
        assert len(counted) == 1
        assert counted.pop() != "everlong-engine"
    assert answer.json()["usage"]["memory"]["reread_tokens"] == 0
