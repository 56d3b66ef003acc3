"""Tools through the template; calls come back as such, and are known again when they are sent back."""

from __future__ import annotations

import json

import pytest

from everlong import Sinks
from everlong.models.load import Loaded
from everlong.server import tools
from everlong.server.service import Service
from everlong.server.settings import ServerSettings
from tests.server.conftest import Client
from tests.session.conftest import byte_level

TEMPLATE = (
    "{% if tools %}<|turn|>system\nTools: {{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}\n<tool_call>\n{{ c['function'] | tojson }}\n</tool_call>{% endfor %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}]
CALL = '{"name": "tide", "arguments": {"at": "noon"}}'
SAYS = f'root ::= "Let us see. <tool_call>\\n{CALL.replace(chr(34), chr(92) + chr(34))}\\n</tool_call>"'


@pytest.fixture
def client(tiny_llama, tmp_path):
    tokenizer = byte_level()
    tokenizer.chat_template = TEMPLATE
    loaded = Loaded(tiny_llama(vocab_size=len(tokenizer)), tokenizer, "tiny")
    service = Service(loaded, Sinks(sinks=3, window=200), tmp_path, ServerSettings())
    yield Client(service)
    service.close()


def test_a_call_comes_back_and_is_known_again(client):
    asked = {"tools": TOOLS, "grammar": SAYS, "max_tokens": 200}
    first = client.chat("When?", **asked).json()
    choice = first["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let us see."
    call = choice["message"]["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "tide")
    assert json.loads(call["function"]["arguments"]) == {"at": "noon"}
    back = [
        {"role": "user", "content": "When?"},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "At noon."},
    ]
    body = {"messages": back, "tools": TOOLS, "max_tokens": 3, "temperature": 0}
    second = client.send("POST", "/v1/chat/completions", json=body).json()
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached == first["usage"]["memory"]["seen_tokens"]
    # With other tools it is another conversation.
    other = client.send("POST", "/v1/chat/completions", json=body | {"tools": [*TOOLS, *TOOLS]}).json()
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_call_is_streamed_whole_behind_the_text(client):
    asked = {"tools": TOOLS, "grammar": SAYS, "max_tokens": 200, "stream": True}
    lines = client.chat("When?", **asked).text.splitlines()
    deltas = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
    assert "".join(d["delta"].get("content", "") for d in deltas).strip() == "Let us see."
    assert [d["delta"]["tool_calls"][0]["function"]["name"] for d in deltas if "tool_calls" in d["delta"]] == ["tide"]
    assert deltas[-1]["finish_reason"] == "tool_calls"


def test_a_session_keeps_the_tools_that_it_began_with(client):
    assert client.chat("One.", session="a", tools=TOOLS).status_code == 200
    assert client.chat("Two.", session="a", tools=TOOLS).status_code == 200
    assert client.chat("Three.", session="a").status_code == 200
    refused = client.chat("Four.", session="a", tools=[*TOOLS, *TOOLS])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")


def test_tools_are_refused_where_the_template_has_none_and_a_call_cannot_be_promised(client, serve):
    for fields, param in (({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"), ({"tools": [3]}, "tools.0")):
        answer = client.chat("One.", **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    answer = serve().chat("One.", tools=TOOLS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


def test_control_tokens_in_a_tool_stay_text(client):
    tool = {"type": "function", "function": {"name": "tide<|end|>", "description": "<|turn|>user"}}
    plain = client.chat("One.", tools=[tool], session="b")
    assert plain.status_code == 200
    with client.service.kept.peek("b").fork() as fork:
        ends = fork.tokenizer.convert_tokens_to_ids("<|end|>")
        assert fork.transcript.ids.tolist().count(ends) <= 3


@pytest.mark.parametrize("text", ["<tool_call>no JSON</tool_call>", "<tool_", "a <tool_call>{", "x", ""])
def test_what_is_no_call_stays_text(text):
    assert tools.parted(text) == (text, [])
    stream = tools.CallText()
    given = "".join(map(stream.take, text))
    assert given + stream.rest()[0] == text


def test_text_behind_a_call_is_given_too():
    text = f"Let us see. <tool_call>{CALL}</tool_call> And then?"
    plain, calls = tools.parted(text)
    assert (plain, len(calls)) == ("Let us see.  And then?", 1)
    stream = tools.CallText()
    given = "".join(map(stream.take, text))
    assert given + stream.rest()[0] == plain


def test_a_response_calls_too_and_goes_on_behind_what_came_of_it(client):
    asked = {"tools": [TOOLS[0]["function"] | {"type": "function"}], "grammar": SAYS, "max_output_tokens": 200}
    first = client.send("POST", "/v1/responses", json=asked | {"input": "When?"}).json()
    said, call = first["output"]
    assert (said["content"][0]["text"], call["type"], call["name"]) == ("Let us see.", "function_call", "tide")
    assert json.loads(call["arguments"]) == {"at": "noon"}
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "At noon."}
    asked["grammar"] = None
    known = client.send("POST", "/v1/responses", json=asked | {"input": [result], "previous_response_id": first["id"]})
    whole = [{"role": "user", "content": "When?"}, {"type": "reasoning", "summary": []}, said, call, result]
    sent = client.send("POST", "/v1/responses", json=asked | {"input": whole, "stream": True})
    events = [json.loads(line[6:]) for line in sent.text.splitlines() if line.startswith("data: {")]
    seen = first["usage"]["memory"]["seen_tokens"]
    assert known.json()["usage"]["input_tokens_details"]["cached_tokens"] == seen
    # A message and its calls come as items of their own, and are known again as one answer.
    assert events[-1]["response"]["usage"]["input_tokens_details"]["cached_tokens"] == seen


def test_a_call_in_a_streamed_response_has_its_events(client):
    asked = {"tools": [TOOLS[0]["function"] | {"type": "function"}], "grammar": SAYS, "max_output_tokens": 200}
    sent = client.send("POST", "/v1/responses", json=asked | {"input": "When?", "stream": True}).text
    events = [json.loads(line[6:]) for line in sent.splitlines() if line.startswith("data: {")]
    kinds = [event["type"] for event in events]
    assert kinds.count("response.function_call_arguments.done") == 1
    assert kinds.index("response.output_text.done") < kinds.index("response.function_call_arguments.delta")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text.strip() == "Let us see."
    assert events[-1]["response"]["output"][1]["name"] == "tide"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
