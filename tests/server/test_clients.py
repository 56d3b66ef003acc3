"""Requests in the forms in which known clients send them, written by hand from their documentation."""

from __future__ import annotations

import json

import openai
import pytest

from tests.server.test_live import base  # noqa: F401 (a fixture)

SYSTEM = {"role": "system", "content": "Be short."}
USER = {"role": "user", "content": "The tide rose."}
REPLY = {"role": "assistant", "content": "It did."}
OPEN_WEBUI = {
    "stream": True,
    "model": "tiny",
    "messages": [SYSTEM, USER],
    "params": {},
    "features": {"web_search": False},
    "variables": {"{{USER_NAME}}": "Ada"},
    "session_id": "3Vq",
    "chat_id": "b1f0",
    "id": "5a2e",
    "background_tasks": {"title_generation": True, "tags_generation": True},
    "stream_options": {"include_usage": True},
}
OPEN_WEBUI_TITLE = {
    "model": "tiny",
    "messages": [
        {"role": "user", "content": "### Task:\nGenerate a concise, 3-5 word title.\n<chat_history>x</chat_history>"}
    ],
    "stream": False,
    "max_completion_tokens": 1000,
    "metadata": {"task": "title_generation", "chat_id": "b1f0"},
}
AIDER = {
    "model": "tiny",
    "messages": [
        SYSTEM,
        {"role": "user", "content": "I have *added these files to the chat*.\n\ntide.py\n```\nprint(1)\n```"},
        {"role": "assistant", "content": "Ok, any changes I propose will be to those files."},
        {"role": "user", "content": [{"type": "text", "text": "Print 2."}]},
        {"role": "system", "content": "Answer with SEARCH/REPLACE blocks."},
    ],
    "temperature": 0,
    "stream": True,
    "extra_body": None,
    "timeout": 600,
}
LANGCHAIN = {
    "model": "tiny",
    "messages": [
        {"content": "Be short.", "role": "system"},
        {"content": "The tide rose.", "role": "user", "name": "ada"},
    ],
    "stream": False,
    "temperature": 0.0,
    "n": 1,
    "stop": None,
    "logprobs": None,
    "max_completion_tokens": 5,
    "presence_penalty": None,
    "session": "langchain",
}
LLAMA_INDEX = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "The tide rose."}]}],
    "model": "tiny",
    "stream": False,
    "temperature": 0.1,
    "max_tokens": None,
}
CONTINUE = {
    "messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "Say it."}]}],
    "model": "tiny",
    "max_tokens": 6,
    "stream": True,
    "stream_options": {"include_usage": True},
    "stop": [],
    "parallel_tool_calls": False,
}
CODEX = {
    "model": "tiny",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<p>read</p>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Print 2."}]},
    ],
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": None,
    "store": False,
    "stream": True,
    "include": [],
    "prompt_cache_key": "0199",
}  # fmt: skip
LM_EVAL = {
    "model": "tiny",
    "prompt": [[5, 6, 7]],
    "temperature": 0,
    "max_tokens": 1,
    "logprobs": 1,
    "seed": 1234,
    "echo": True,
}
CHATS = {
    "open webui": OPEN_WEBUI,
    "open webui, a title": OPEN_WEBUI_TITLE,
    "aider": AIDER,
    "langchain": LANGCHAIN,
    "llama index": LLAMA_INDEX,
    "continue": CONTINUE,
}


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_in_a_clients_form_is_answered(serve, name):
    client = serve()
    body = {"max_completion_tokens": 6} | CHATS[name]
    body["max_completion_tokens"] = min(6, body["max_completion_tokens"])
    answer = client.send("POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    if not body["stream"]:
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"
        return
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line[6:]) for line in lines[:-1]]
    assert "error" not in events[-1]
    assert [c["finish_reason"] for event in events for c in event["choices"] if c["finish_reason"]] == ["length"]
    if "stream_options" in body:
        assert events[-1]["usage"]["completion_tokens"] == 6


def test_a_title_displaces_no_conversation(serve):
    client = serve()
    first = client.chat("The tide rose.", max_tokens=4)
    for _ in range(3):
        client.send("POST", "/v1/chat/completions", json=OPEN_WEBUI_TITLE | {"max_completion_tokens": 4})
    reply = first.json()["choices"][0]["message"]["content"]
    again = client.chat("The tide rose.", reply, "And?", max_tokens=4)
    cached = again.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == first.json()["usage"]["memory"]["seen_tokens"]


def test_codex_and_lm_eval_ask_in_their_forms(serve):
    client = serve()
    answer = client.send("POST", "/v1/responses", json=CODEX | {"max_output_tokens": 6})
    tool = {"type": "function", "name": "shell", "description": "Runs.", "strict": False, "parameters": {}}
    refused = client.send("POST", "/v1/responses", json=CODEX | {"tools": [tool]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    kinds = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.incomplete"
    scored = client.send("POST", "/v1/completions", json=LM_EVAL).json()
    assert len(scored["choices"][0]["logprobs"]["token_logprobs"]) == 4


def test_the_official_client_on_each_route(base):  # noqa: F811
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
    assert client.models.retrieve("tiny").id == "tiny"
    response = client.responses.create(model="tiny", input="One.", max_output_tokens=4, temperature=0)
    assert client.responses.retrieve(response.id).id == response.id
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(response.id)
    client.responses.delete(response.id)
    talk = client.conversations.create()
    said = client.responses.create(model="tiny", input="One.", max_output_tokens=4, conversation=talk.id)
    assert said.usage.input_tokens > 0
    assert client.conversations.retrieve(talk.id).id == talk.id
    assert client.conversations.delete(talk.id).deleted
    asked = {"model": "tiny", "messages": [USER], "max_tokens": 60, "temperature": 0}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["high", "low"]}}}
    chosen = client.chat.completions.create(**asked, response_format=form)
    assert json.loads(chosen.choices[0].message.content) in ("high", "low")
    streamed = client.completions.create(model="tiny", prompt="The tide", max_tokens=4, stream=True)
    assert [part.choices[0].finish_reason for part in streamed][-1] == "length"
    keyed = {"extra_headers": {"Idempotency-Key": "k"}, "extra_body": {"session": "a"}}
    drawn = [client.chat.completions.create(**asked | {"temperature": 1}, **keyed) for _ in range(2)]
    assert drawn[0].choices[0].message.content == drawn[1].choices[0].message.content
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked | {"max_tokens": 5}, **keyed)
    assert refused.value.param == "Idempotency-Key"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
    assert refused.value.param == "tools"
