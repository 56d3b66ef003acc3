"""Answers that go on without their client: followed from any place, begun once, stopped, told of when they failed."""

from __future__ import annotations

import json

import httpx
import pytest

from everlong import Sinks
from everlong.errors import BudgetError
from tests.server.test_live import alive

SAID = {"message": "The tide rose.", "temperature": 1, "seed": 5, "max_tokens": 60}


@pytest.fixture
def server(tiny_model, tmp_path):
    server = alive(tiny_model, tmp_path, Sinks(sinks=3, window=60))
    with server as (url, service), httpx.Client(base_url=url, timeout=20) as client:
        yield client, service


def begin(client, identity="1", name="a", **fields):
    return client.post(f"/v1/sessions/{name}/live", json=SAID | {"id": identity} | fields)


def follow(client, after=0, most=10**9, name="a"):
    found = []
    with client.stream("GET", f"/v1/sessions/{name}/live", params={"after": after}) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
            if len(found) == most:
                break
    return found


def text_of(events):
    return "".join(event["text"] for event in events if event["type"] == "live.text")


def test_an_answer_goes_on_without_its_client_and_is_followed_again(server):
    client, _ = server
    assert begin(client).status_code == 202
    early = follow(client, most=3)
    assert early[0] == {"type": "live.begun", "id": "1", "message": SAID["message"], "running": True}
    behind = follow(client, after=early[-1]["end"])
    whole = follow(client)
    assert whole[0]["running"] is False
    assert text_of(early) + text_of(behind) == text_of(whole)
    assert (whole[-1]["type"], whole[-1]["finish"]) == ("live.ended", "length")
    assert whole[-1]["usage"]["completion_tokens"] == 60
    plain = SAID | {"messages": [{"role": "user", "content": SAID["message"]}]}
    answer = client.post("/v1/chat/completions", json=plain | {"session": "b"}).json()
    assert text_of(whole) == answer["choices"][0]["message"]["content"]
    said = client.get("/v1/sessions/a/messages").json()["data"]
    assert [entry["text"] for entry in said] == [SAID["message"], text_of(whole).strip()]


def test_a_message_that_is_sent_again_is_read_once(server):
    client, service = server
    for _ in range(3):
        assert begin(client).json()["id"] == "1"
    other = begin(client, "2")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "busy")
    end = follow(client)[-1]
    assert begin(client).status_code == 202
    assert follow(client)[-1] == end
    assert service.metrics.written_tokens._value.get() == 60


def test_a_session_is_looked_at_while_it_is_written_and_the_answer_is_stopped(server):
    client, _ = server
    begin(client, max_tokens=16000)
    follow(client, most=2)
    assert client.get("/v1/sessions/a/messages").json()["data"] == []
    assert client.get("/v1/sessions/a/memory").json()["report"]["seen_tokens"] > 0
    assert client.delete("/v1/sessions/a/live").json()["stopped"] is True
    end = follow(client)[-1]
    assert (end["type"], end["finish"]) == ("live.ended", "cancelled")
    assert 0 < end["usage"]["completion_tokens"] < 16000
    assert client.get("/v1/sessions/a").json()["tokens"] == end["usage"]["memory"]["seen_tokens"]
    client.delete("/v1/sessions/a/live")
    assert follow(client) == [{"type": "live.none"}]
    assert client.delete("/v1/sessions/a/live").status_code == 404


def test_a_stopped_answer_of_a_copy_disturbs_no_step(tiny_model, tmp_path, blocks, caplog):
    """The message outgrows the window: the answer is written on a copy, which is closed when it is stopped."""
    with alive(tiny_model, tmp_path, blocks) as (url, _), httpx.Client(base_url=url, timeout=20) as client:
        begin(client, message="The tide rose and fell. " * 10, max_tokens=16000)
        while not text_of(follow(client, most=8)):
            pass
        client.delete("/v1/sessions/a/live")
        assert follow(client)[-1]["finish"] == "cancelled"
        begin(client, "2", max_tokens=3)
        assert follow(client)[-1]["finish"] == "length"
    assert [record.message for record in caplog.records if record.name == "everlong.server.worker"] == []


def test_an_answer_that_fails_says_why_and_can_be_tried_again(server, monkeypatch):
    client, service = server

    def full(*_):
        raise BudgetError("disk_budget=1: full; give more")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(service.writer, "turn", full)
        begin(client)
        failed = follow(client)[-1]
    assert (failed["type"], failed["error"]["code"]) == ("live.failed", "budget_exceeded")
    begin(client, "2", max_tokens=3)
    assert follow(client)[-1]["type"] == "live.ended"


@pytest.mark.parametrize("fields", [{"message": " "}, {"message": 3}, {"id": ""}, {"temperature": -1}, {"tools": [1]}])
def test_what_cannot_be_answered_is_refused(server, fields):
    client, _ = server
    answer = client.post("/v1/sessions/a/live", json=SAID | {"id": "1"} | fields)
    assert answer.status_code == 400
    assert follow(client) == [{"type": "live.none"}]
    assert begin(client, name=".a").status_code == 400
