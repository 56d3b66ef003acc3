"""Named sessions: kept, gone on with, listed, renamed, forked, deleted; their names are no paths."""

from __future__ import annotations

import pytest

from everlong import Sinks
from everlong.server import open_sessions


def text(answer):
    return answer.json()["choices"][0]["message"]["content"]


def cached(answer):
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_session_goes_on_behind_what_it_has_read(serve, blocks):
    for method in (Sinks(sinks=3, window=60), blocks):
        client = serve(method)
        name = method.name
        first = client.chat("The tide rose.", session=name)
        seen = first.json()["usage"]["memory"]["seen_tokens"]
        assert cached(first) == 0
        second = client.chat("And then?", session=name)
        assert cached(second) == seen
        header = client.send(
            "POST",
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "So?"}], "max_tokens": 3},
            headers={"x-session-id": name},
        )
        assert cached(header) == second.json()["usage"]["memory"]["seen_tokens"]


def test_a_client_that_sends_all_messages_has_only_the_new_ones_read(serve):
    client = serve()
    system = {"role": "system", "content": "Be short."}
    messages = [system, {"role": "user", "content": "One."}]

    def ask(said):
        return client.send(
            "POST", "/v1/chat/completions", json={"messages": said, "max_tokens": 3, "session": "a", "temperature": 0}
        )

    first = ask(messages)
    whole = [*messages, {"role": "assistant", "content": text(first)}, {"role": "user", "content": "Two."}]
    second = ask(whole)
    new = second.json()["usage"]["prompt_tokens"] - cached(second)
    assert cached(second) == first.json()["usage"]["memory"]["seen_tokens"]
    third = ask([system, {"role": "user", "content": "Two."}])
    assert third.json()["usage"]["prompt_tokens"] - cached(third) == new


def test_a_block_of_control_tokens_alone_is_no_citation(serve, blocks):
    client = serve(blocks)
    for n in range(4):
        answer = client.chat(f"Gull {n} cried over the pier. " * (1 + n % 2), max_tokens=5, again=0, session="a")
        assert answer.status_code == 200, answer.text
    found = client.send("GET", "/v1/sessions/a/citations").json()["data"]
    assert all(cited["start"] < cited["end"] for cited in found)


def test_a_session_outlives_the_server(serve, blocks):
    client = serve(blocks)
    first = client.chat("The tide rose and fell. " * 9, session="a")
    client.service.close()
    again = serve(blocks)
    assert again.send("GET", "/v1/sessions/a").json()["tokens"] == first.json()["usage"]["memory"]["seen_tokens"]
    second = again.chat("The tide rose and fell. " * 9, text(first), "And then?", session="a")
    assert cached(second) == first.json()["usage"]["memory"]["seen_tokens"]
    assert second.json()["usage"]["prompt_tokens"] < 1.3 * cached(second)


def test_sessions_are_listed_renamed_forked_and_deleted(serve, blocks):
    client = serve(blocks)
    assert client.send("POST", "/v1/sessions", json={"name": "a"}).json()["id"] == "a"
    assert client.send("POST", "/v1/sessions").json()["id"].startswith("session-")
    client.chat("The tide rose.", session="a")
    found = client.send("GET", "/v1/sessions/a").json()
    assert found["memory"]["seen_tokens"] == found["tokens"] > 0
    assert client.send("POST", "/v1/sessions/a/fork", json={"name": "b"}).json()["tokens"] == found["tokens"]
    assert client.send("PATCH", "/v1/sessions/b", json={"name": "c"}).json()["id"] == "c"
    assert cached(client.chat("Two.", session="c")) == found["tokens"]
    assert client.send("GET", "/v1/sessions/a").json()["tokens"] == found["tokens"]
    assert client.send("DELETE", "/v1/sessions/c").json()["deleted"] is True
    names = [session["id"] for session in client.send("GET", "/v1/sessions").json()["data"]]
    assert "a" in names
    assert not {"b", "c"} & set(names)


def rewound(client, turns, name="a"):
    return client.send("POST", f"/v1/sessions/{name}/rewind", json={"turns": turns})


@pytest.mark.parametrize("parks", [False, True])
def test_the_last_turns_are_taken_back(serve, blocks, parks, monkeypatch):
    monkeypatch.setattr(open_sessions, "STATE_TOKENS", 40)
    for method in (blocks, Sinks(sinks=3, window=60)):
        client = serve(method)
        name = method.name
        texts = [f"Gull {n} cried over the pier. " * (1 + n % 2) for n in range(6)]
        ends = [0]
        answers = []
        for said in texts:
            answer = client.chat(said, session=name, max_tokens=5)
            answers.append(text(answer))
            ends.append(answer.json()["usage"]["memory"]["seen_tokens"])
        if parks:
            client.service.close()
            client = serve(method)
        assert rewound(client, 1, name).json()["tokens"] == ends[5]
        assert text(client.chat(texts[5], session=name, max_tokens=5)) == answers[5]
        assert rewound(client, 1, name).json()["tokens"] == ends[5]
        # Where a session was closed in between, its states may be of behind the turn before.
        again = rewound(client, 1, name)
        begin = 5 if parks and again.status_code == 400 else 4
        assert begin == 5 or again.json()["tokens"] == ends[4]
        for n in range(begin, 6):
            answer = client.chat(texts[n], session=name, max_tokens=5)
            assert (cached(answer), text(answer)) == (ends[n], answers[n])
        found = client.send("GET", f"/v1/sessions/{name}").json()
        assert found["tokens"] == ends[6]
        # It outlives the server, and what cannot be taken back changes nothing.
        client.service.close()
        client = serve(method)
        assert rewound(client, 400, name).status_code == 400
        again = client.chat("And?", session=name, max_tokens=5)
        assert cached(again) == ends[6]


def test_turns_that_cannot_be_taken_back_are_refused(serve):
    client = serve()
    client.send("POST", "/v1/sessions", json={"name": "a"})
    for turns in (0, -1, "2", True, 1.5, None):
        answer = rewound(client, turns)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "turns")
    assert rewound(client, 1).json()["error"]["param"] == "turns"
    assert rewound(client, 1, "nobody").status_code == 404


def test_what_is_not_there_is_404_and_what_is_taken_is_refused(serve):
    client = serve()
    client.send("POST", "/v1/sessions", json={"name": "a"})
    for method, path in (("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/fork"), ("GET", "/citations")):
        answer = client.send(method, f"/v1/sessions/nobody{path}", json={"name": "x"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "session")
    assert client.send("POST", "/v1/sessions", json={"name": "a"}).status_code == 400
    assert client.send("POST", "/v1/sessions/a/fork", json={"name": "a"}).status_code == 409
    assert client.send("PATCH", "/v1/sessions/a", json={}).status_code == 400


@pytest.mark.parametrize("name", ["../x", "a/b", ".a", "-a", "a\n", "x" * 101, " a"])
def test_no_name_becomes_a_path(serve, tmp_path, name):
    client = serve()
    assert client.send("POST", "/v1/sessions", json={"name": name}).status_code == 400
    assert client.chat("One.", session=name).status_code == 400
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.parent.name == "sessions"]


def test_each_key_has_sessions_of_its_own(serve):
    client = serve(keys=("one", "two"))

    def sent(key, method, path, **fields):
        return client.send(method, path, headers={"Authorization": f"Bearer {key}"}, **fields)

    assert sent("one", "POST", "/v1/sessions", json={"name": "a"}).json()["id"] == "a"
    assert sent("two", "GET", "/v1/sessions").json()["data"] == []
    assert sent("two", "GET", "/v1/sessions/a").status_code == 404
    assert [s["id"] for s in sent("one", "GET", "/v1/sessions").json()["data"]] == ["a"]
