"""kill -9 at many places: no token of an answer that was acknowledged is lost, and none is read twice."""

from __future__ import annotations

import contextlib
import json

import httpx
import pytest

from everlong import Blocks, Session
from tests.server.conftest import SMALL
from tests.server.killed import PLACES, TORN, client, server, service

TEXTS = [f"Gull {n} cried over the pier. " * (1 + n % 2) for n in range(5)]
STATE_TOKENS = 70


@pytest.fixture(scope="module")
def alone(tiny_model, tmp_path_factory):
    """The ids that a session has read whose server was never killed."""
    store = tmp_path_factory.mktemp("alone")
    with server(begun(tiny_model, store)) as (url, _), client() as asking:
        for n in range(len(TEXTS)):
            ask(asking, url, n, stream=False)
    return ids_of(tiny_model, store)


def ids_of(model, store):
    """All that the session has read, as a restart has it."""
    with Session.restored(store, "a", model, read_only=True) as session:
        noted = [token for record in session._checkpointer.journal.records for _, run in record.runs for token in run]
        return [*session.transcript.ids, *noted]


def ask(asking, url, n, stream):
    """Ask for turn `n`; the text of its answer, when its end has come."""
    said = [{"role": "user", "content": TEXTS[n]}]
    body = {"messages": said, "max_tokens": 5, "temperature": 0, "again": 0, "session": "a", "stream": stream}
    headers = {"Idempotency-Key": f"turn-{n}"}
    if not stream:
        answer = asking.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]
    text = ""
    with asking.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                return text
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
    raise httpx.ReadError("the stream ended early")


def begun(model, store):
    return lambda: service(model, Blocks(**SMALL), store, STATE_TOKENS)


def survives(model, store, place, times):
    """Ask until the server is killed, start it again, and ask on from the turn whose answer had not come whole."""
    answers = []

    def go_on(url):
        with client() as asking:
            while len(answers) < len(TEXTS):
                answers.append(ask(asking, url, len(answers), stream=len(answers) % 2 == 0))

    with server(begun(model, store), place, times) as (url, _), contextlib.suppress(httpx.HTTPError):
        go_on(url)
    killed_at = len(answers)
    with server(begun(model, store)) as (url, _):
        go_on(url)
    return killed_at, ids_of(model, store)


@pytest.mark.parametrize(
    ("place", "times"),
    [
        (TORN, 3),
        ("behind a turn that was noted", 2),
        ("behind a checkpoint that was named", 2),
    ],
)
def test_what_was_acknowledged_is_kept_and_read_once(tiny_model, tmp_path, alone, place, times):
    killed_at, ids = survives(tiny_model, tmp_path, place, times)
    assert killed_at < len(TEXTS)
    assert ids == alone


@pytest.mark.slow(reason="thirty kills, each with two starts of a server")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("place", [TORN, *PLACES])
def test_what_was_acknowledged_is_kept_wherever_it_is_killed(tiny_model, tmp_path, alone, place, times):
    _, ids = survives(tiny_model, tmp_path, place, times)
    assert ids == alone
