"""Requests that come again: with a key or while the first runs they join it, and nothing is read twice."""

from __future__ import annotations

import asyncio

import httpx

from everlong.server.joining import ApiCaller, Repeats
from everlong.server.worker import Ticket
from tests.server.test_load import body
from tests.server.test_sessions import cached

ROUTE = "/v1/chat/completions"


def at_once(client, requests):
    """The answers to requests (body, headers) that are all sent at the same time."""

    async def sent():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
            return await asyncio.gather(*(http.post(ROUTE, json=said, headers=headers) for said, headers in requests))

    return asyncio.run(asyncio.wait_for(sent(), 60))


def seen(client, name="a"):
    return client.send("GET", f"/v1/sessions/{name}").json()["tokens"]


def test_the_same_request_while_the_first_runs_is_read_once(serve):
    client = serve()
    said = body("One.", session="a", temperature=1)
    answers = at_once(client, 3 * [(said, {})])
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert seen(client) == answers[0].json()["usage"]["memory"]["seen_tokens"]
    # Later it is another turn: it may be meant.
    again = client.send("POST", ROUTE, json=said)
    assert cached(again) == answers[0].json()["usage"]["memory"]["seen_tokens"]


def test_what_is_drawn_anew_each_time_is_joined_only_where_the_client_says_that_it_asks_again(serve):
    client = serve()
    said = body("One.", temperature=1.5, max_tokens=12)
    drawn = {answer.json()["choices"][0]["message"]["content"] for answer in at_once(client, 4 * [(said, {})])}
    assert len(drawn) > 1
    retried = at_once(client, [(said, {}), (said, {"x-stainless-retry-count": "1"})])
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in retried}) == 1


def test_a_key_gives_the_same_answer_again_and_to_no_other_request(serve, blocks):
    client = serve(blocks)
    said = body("One.", session="a", temperature=1)
    key = {"Idempotency-Key": "k"}
    first = client.send("POST", ROUTE, json=said, headers=key)
    before = seen(client)
    again = client.send("POST", ROUTE, json=said, headers=key)
    assert again.json()["choices"] == first.json()["choices"]
    streamed = client.send("POST", ROUTE, json=said | {"stream": True}, headers=key)
    assert "data: [DONE]" in streamed.text
    assert seen(client) == before
    other = client.send("POST", ROUTE, json=body("Two.", session="a"), headers=key)
    assert (other.status_code, other.json()["error"]["param"]) == (400, "Idempotency-Key")
    client.service.close()
    restarted = serve(blocks)
    again = restarted.send("POST", ROUTE, json=said, headers=key)
    assert again.json()["choices"] == first.json()["choices"]
    other = restarted.send("POST", ROUTE, json=body("Two.", session="a"), headers={"Idempotency-Key": "k"})
    assert other.status_code == 400
    assert seen(restarted) == before


def test_keys_are_of_one_api_key_each(serve):
    client = serve(keys=("one", "two"))
    said = body("One.", session="a")
    for key in ("one", "two"):
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "k"}
        assert cached(client.send("POST", ROUTE, json=said, headers=headers)) == 0


def test_an_answer_with_a_key_is_written_to_its_end_when_its_client_leaves(serve):
    client = serve()
    said = body("One.", session="a", max_tokens=40)

    async def left():
        transport = httpx.ASGITransport(client.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            headers = {"Idempotency-Key": "k"}
            asking = asyncio.create_task(http.post(ROUTE, json=said, headers=headers))
            await asyncio.sleep(0.05)
            asking.cancel()
            return await http.post(ROUTE, json=said, headers=headers)

    again = asyncio.run(asyncio.wait_for(left(), 60)).json()
    assert again["usage"]["completion_tokens"] == 40
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_one_that_was_told_to_end_is_not_joined():
    tickets = []

    def begin(tell):
        tickets.append(Ticket(lambda: iter(())))
        return tickets[-1]

    repeats = Repeats()
    first = repeats.answer(ApiCaller(), "x", True, print, begin)
    second = repeats.answer(ApiCaller(), "x", True, print, begin)
    assert len(tickets) == 1
    first.leave()
    assert not tickets[0].gone
    second.leave()
    assert tickets[0].gone
    repeats.answer(ApiCaller(), "x", True, print, begin)
    assert len(tickets) == 2
