"""Many requests: a request fails alone, sessions wait in line, memory is bounded, time too."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import httpx

from everlong import Sinks
from everlong.engine import batch
from everlong.errors import DamagedError
from everlong.server.pace import Pace
from everlong.server.settings import Limits


def at_once(client, bodies):
    """The answers to chats that are all asked at the same time."""

    async def sent():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
            return await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for body in bodies))

    return asyncio.run(asyncio.wait_for(sent(), 60))


def body(text, **fields):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0} | fields


def test_a_request_fails_alone(serve, monkeypatch):
    client = serve()
    alone = [client.chat(text, max_tokens=8).json()["choices"] for text in ("One.", "Three.")]
    read = batch.read

    def damaged(pieces):
        # A long prompt may come in pieces of any size: what was read before counts too.
        if any(piece.stream.seen_tokens + len(piece.ids) > 100 for piece in pieces):
            raise DamagedError("block 3: damaged; run verify")
        read(pieces)

    monkeypatch.setattr(batch, "read", damaged)
    answers = at_once(client, [body("One."), body("Broken. " * 80), body("Three.")])
    assert [answer.status_code for answer in answers] == [200, 409, 200]
    assert "block 3" in answers[1].json()["error"]["message"]
    assert [answers[n].json()["choices"] for n in (0, 2)] == alone
    assert client.send("GET", "/healthz").status_code == 200


def test_requests_to_one_session_wait_in_line(serve):
    client = serve()
    answers = at_once(client, [body(f"Number {n}.", session="a") for n in range(4)])
    used = sorted((answer.json()["usage"] for answer in answers), key=lambda u: u["prompt_tokens"])
    assert used[0]["prompt_tokens_details"]["cached_tokens"] == 0
    for before, after in pairwise(used):
        assert after["prompt_tokens_details"]["cached_tokens"] == before["memory"]["seen_tokens"]


def soon(happens, seconds=5.0):
    """Whether something happens before so many seconds are over."""
    end = time.monotonic() + seconds
    while not (found := happens()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_open_sessions_take_as_much_memory_as_they_may(serve, blocks):
    for method in (Sinks(sinks=3, window=60), blocks):
        client = serve(method)
        client.chat("One.", session=f"{method.name}-0")
        soon(lambda: client.service.worker.jobs == 0)  # noqa: B023
        each = client.service.kept.open.bytes
        client.service.close()
        client = serve(method, memory_bytes=7 * each // 2)
        seen = {}
        for n in range(1, 7):
            name = f"{method.name}-{n}"
            seen[n] = client.chat("One.", session=name).json()["usage"]["memory"]["seen_tokens"]
            assert client.service.kept.open.bytes <= 7 * each // 2
            client.chat(f"Number {n}.")
        assert len(client.service.kept.open) <= 3
        again = client.chat("Two.", session=f"{method.name}-1").json()["usage"]
        assert again["prompt_tokens_details"]["cached_tokens"] == seen[1]


def test_sessions_that_are_used_are_not_parked(serve):
    client = serve(memory_bytes=1)
    answers = at_once(client, [body(f"Number {n}.", session=f"s{n}") for n in range(4)])
    assert [answer.status_code for answer in answers] == 4 * [200]
    assert soon(lambda: len(client.service.kept.open) == 0)


def test_an_answer_ends_when_its_time_is_over(serve):
    client = serve(limits=Limits(request_s=0.3))
    for stream in (False, True):
        answer = client.chat("One.", max_tokens=16000, stream=stream)
        assert answer.status_code == 200
    # The answer is there before the engine's thread has put its job away.
    assert soon(lambda: client.service.worker.jobs == 0)


def test_readers_get_as_much_as_holds_nobody_up():
    pace = Pace(max_gap=4.0)
    assert pace.piece == pace.tokens == 512
    pace._answers, pace._answer_s = 2, 0.1
    assert pace.piece == 32
    for _ in range(20):  # .1 seconds for any piece, and .002 for each token
        pace.took_reading(pace.piece, 0.1 + 0.002 * pace.piece)
    assert abs(pace.piece - ((0.75 * 4 - 1) * 0.1 - 0.1) / 0.002) <= 2
    assert pace.tokens == pace.piece + 2
    before = pace.piece
    pace.took_reading(1, 100.0)  # the end of a text
    assert pace.piece == before
    pace.took_reading(before, 100.0)
    assert pace.piece == before // 2
    for _ in range(9):
        pace.took_reading(pace.piece, 100.0)
    assert pace.piece == 16


def test_a_piece_ends_where_blocks_are_chosen_anew(serve, blocks):
    client = serve(blocks)
    client.chat("One.", session="a")
    session = client.service.kept.peek("a")
    pace = Pace()
    border = blocks.exec_chunk - session.seen_tokens % blocks.exec_chunk
    assert pace.piece_of(session) == border
    pace._answers, pace._piece = 1, border - 1.0
    assert pace.piece_of(session) == border - 1


def test_readers_take_turns(serve):
    worker = serve().service.worker
    begun = threading.Event()
    done = []

    def reader(name):
        yield begun.is_set
        for _ in range(4):
            done.append(name)
            yield None

    tickets = [worker.submit(lambda name=name: reader(name)) for name in "abc"]
    turns = []
    turn = worker._turn
    worker._turn = lambda: (turns.append(len(done)), turn())[1]
    begun.set()
    for ticket in tickets:
        ticket.future.result(timeout=10)
    # Each begins by itself; then one of them goes on in a turn.
    assert max(after - before for before, after in pairwise([*turns, len(done)]) if before >= 3) == 1
    assert sorted(done[3:6]) == sorted(done[6:9]) == ["a", "b", "c"]
