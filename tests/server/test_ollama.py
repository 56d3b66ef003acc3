"""The routes of Ollama: lines of JSON by default, one object where no stream is wanted."""

from __future__ import annotations

import json


def test_what_clients_probe(serve):
    client = serve()
    assert client.send("GET", "/api/version").json()["version"]
    assert client.send("GET", "/api/tags").json()["models"][0]["name"] == "tiny"
    shown = client.send("POST", "/api/show", json={"model": "tiny"}).json()
    assert shown["model_info"]["llama.context_length"] > 0


def test_a_chat_and_a_prompt_are_answered_as_by_openais_route(serve):
    client = serve()
    expected = client.chat("The tide rose.").json()["choices"][0]["message"]["content"]
    options = {"temperature": 0, "num_predict": 6}
    said = {"model": "tiny", "messages": [{"role": "user", "content": "The tide rose."}], "options": options}
    whole = client.send("POST", "/api/chat", json=said | {"stream": False}).json()
    assert whole["message"] == {"role": "assistant", "content": expected}
    assert whole["done"] is True
    lines = [json.loads(line) for line in client.send("POST", "/api/chat", json=said).text.splitlines()]
    assert "".join(line["message"]["content"] for line in lines) == expected
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["eval_count"] == whole["eval_count"]
    prompt = {"prompt": "The tide rose.", "options": options, "stream": False}
    assert client.send("POST", "/api/generate", json=prompt).json()["response"] == expected


def test_what_cannot_be_honoured_is_refused(serve):
    client = serve()
    for path, body in (
        ("chat", {}),
        ("chat", {"messages": [{"role": "user", "content": "x"}], "format": "yaml"}),
        ("generate", {"prompt": 3}),
        ("generate", {"prompt": "x", "raw": True}),
        ("generate", {"prompt": "x", "options": {"temperature": "hot"}}),
    ):
        assert client.send("POST", f"/api/{path}", json=body).status_code == 400
