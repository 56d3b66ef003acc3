"""Named sessions: kept, gone on with, listed, renamed, forked, deleted; their names are no paths."""

from __future__ import annotations

import pytest

from everlong import Sinks


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
