"""Responses: gone on from by their ids, streamed as numbered events, fetched, cancelled and deleted."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest


def respond(client, said="The tide rose.", **fields):
    body = {"input": said, "max_output_tokens": 6, "temperature": 0} | fields
    return client.send("POST", "/v1/responses", json=body)


def text(response):
    return response.json()["output"][0]["content"][0]["text"]


def test_a_response_goes_on_from_the_one_before(serve):
    client = serve()
    first = respond(client, instructions="Be short.")
    whole = client.chat("The tide rose.").json()
    assert text(respond(client)) == whole["choices"][0]["message"]["content"]
    used = respond(client, "And?", previous_response_id=first.json()["id"]).json()["usage"]
    assert used["input_tokens_details"]["cached_tokens"] == first.json()["usage"]["memory"]["seen_tokens"]
    assert first.json()["status"] in ("completed", "incomplete")


def test_a_stream_has_numbered_events_and_whole_objects(serve):
    client = serve()
    answer = respond(client, [{"role": "user", "content": [{"type": "input_text", "text": "One."}]}], stream=True)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    whole = events[-1]["response"]
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert whole["output"][0]["content"][0]["text"] == said
    assert client.send("GET", f"/v1/responses/{whole['id']}").json() == whole


def test_a_conversation_is_a_session(serve):
    client = serve()
    first = respond(client, conversation={"id": "a"}).json()["usage"]
    second = respond(client, "And?", session="a").json()["usage"]
    assert second["input_tokens_details"]["cached_tokens"] == first["memory"]["seen_tokens"]


def test_a_conversation_is_made_fetched_and_removed(serve):
    client = serve()
    made = client.send("POST", "/v1/conversations", json={"metadata": {}}).json()
    assert made["object"] == "conversation"
    respond(client, conversation=made["id"]).raise_for_status()
    assert client.send("GET", f"/v1/conversations/{made['id']}").json() == made
    assert client.send("POST", "/v1/conversations", json={"items": [1]}).status_code == 400
    assert client.send("DELETE", f"/v1/conversations/{made['id']}").json()["deleted"] is True
    assert client.send("GET", f"/v1/conversations/{made['id']}").status_code == 404


def test_what_is_unknown_is_404_and_never_passed_over(serve):
    client = serve()
    assert respond(client, previous_response_id="resp_nothing").status_code == 404
    kept = respond(client).json()["id"]
    assert client.send("DELETE", f"/v1/responses/{kept}").json()["deleted"] is True
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        assert client.send(method, f"/v1/responses/{kept}{path}").status_code == 404
    assert respond(client, previous_response_id=kept).status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "image"}]}, "input.0.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"conversation": {}}, "conversation"),
    ],
)
def test_what_cannot_be_honoured_is_refused(serve, fields, param):
    answer = serve().send("POST", "/v1/responses", json={"input": "x"} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_response_is_cancelled_and_keeps_what_was_written(serve):
    client = serve()

    async def cancelled():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
            said = {"input": "One.", "max_output_tokens": 16000}
            writing = asyncio.create_task(http.post("/v1/responses", json=said))
            while not client.app.state.running:
                await asyncio.sleep(0.01)
            identity = next(iter(client.app.state.running))
            await asyncio.sleep(0.2)
            ended = await http.post(f"/v1/responses/{identity}/cancel")
            written = (await writing).json()
            again = await http.post(f"/v1/responses/{identity}/cancel")
            return ended.json(), written, (await http.get(f"/v1/responses/{identity}")).json(), again.status_code

    ended, written, kept, again = asyncio.run(asyncio.wait_for(cancelled(), 60))
    assert (ended["status"], ended["object"]) == ("cancelled", "response")
    assert written == kept
    assert (kept["status"], kept["output"][0]["status"], again) == ("cancelled", "incomplete", 400)
    assert 0 < kept["usage"]["output_tokens"] < 16000
    assert client.send("POST", "/v1/responses/resp_0/cancel").status_code == 404
