"""Answers of a form: JSON, JSON of a schema, a grammar; what cannot be followed is refused with its field."""

from __future__ import annotations

import json

import pytest

from everlong.engine import grammar

SCHEMA = {
    "type": "object",
    "properties": {"gull": {"type": "boolean"}, "tide": {"enum": ["high", "low"]}},
    "required": ["gull", "tide"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "shore", "strict": True, "schema": SCHEMA}}


def whole(text):
    found = json.loads(text)
    assert set(found) == {"gull", "tide"}
    assert found["tide"] in ("high", "low")


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_an_answer_follows_its_schema(serve, temperature):
    client = serve()
    fields = {"max_tokens": 400, "temperature": temperature, "seed": 1, "response_format": NAMED, "n": 2}
    answer = client.chat("What of the shore?", **fields).json()
    for choice in answer["choices"]:
        whole(choice["message"]["content"])
        assert choice["finish_reason"] == "stop"
    events = client.chat("What of the shore?", **fields | {"stream": True, "n": 1}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in events if line.startswith("data: {")]
    whole("".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks))


def test_each_route_has_its_name_for_it(serve, blocks):
    client = serve(blocks)
    plain = {"type": "json_schema", "name": "shore", "schema": SCHEMA}
    body = {"input": "What?", "max_output_tokens": 400, "temperature": 0, "text": {"format": plain}}
    response = client.send("POST", "/v1/responses", json=body).json()
    whole(response["output"][0]["content"][0]["text"])
    said = [{"role": "user", "content": "What?"}]
    body = {"messages": said, "stream": False, "format": SCHEMA, "options": {"num_predict": 400, "temperature": 0}}
    whole(client.send("POST", "/api/chat", json=body).json()["message"]["content"])
    text = 'root ::= "gull" | "tide"'
    assert client.chat("What?", grammar=text, max_tokens=40).json()["choices"][0]["message"]["content"] in (
        "gull",
        "tide",
    )
    body = {"prompt": "What?", "grammar": text, "max_tokens": 40, "temperature": 0}
    assert client.send("POST", "/v1/completions", json=body).json()["choices"][0]["text"] in ("gull", "tide")


def test_what_cannot_be_followed_is_refused_with_its_field(serve, monkeypatch):
    client = serve()
    wrong = [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "gull"}}}}, "response_format"),
        ({"grammar": "root = "}, "grammar"),
        ({"grammar": 'root ::= "a"', "response_format": {"type": "json_object"}}, "grammar"),
    ]
    for fields, param in wrong:
        answer = client.chat("What?", **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    monkeypatch.setattr(grammar.importlib.util, "find_spec", lambda name: None)
    answer = client.chat("What?", response_format=NAMED)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
    assert "everlong[grammar]" in answer.json()["error"]["message"]
