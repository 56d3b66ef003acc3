"""What a session holds, looked at over HTTP: what was said in it, its memory, the text of its tokens."""

from __future__ import annotations

import pytest

from everlong.server.talk import Said, without_running
from tests.server.test_documents import TEXT, upload


def said(client, name="a", **query):
    answer = client.send("GET", f"/v1/sessions/{name}/messages", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_was_said_is_told_from_what_was_read(serve, blocks):
    client = serve(blocks)
    first = client.chat("The tide <|end|> rose.", session="a").json()["choices"][0]["message"]["content"]
    upload(client, "tide.txt", TEXT)
    second = client.chat("And then?", session="a").json()["choices"][0]["message"]["content"]
    found = said(client)["data"]
    assert [entry["role"] for entry in found] == ["user", "assistant", "document", "user", "assistant"]
    assert [entry["text"] for entry in found] == [
        "The tide <|end|> rose.",
        first.strip(),
        "tide.txt",
        "And then?",
        second.strip(),
    ]
    assert [entry["first"] for entry in found] == sorted(entry["first"] for entry in found)
    last = said(client, limit=2)
    assert (last["has_more"], [entry["text"] for entry in last["data"]]) == (True, [e["text"] for e in found[-2:]])
    before = said(client, limit=9, before=last["data"][0]["first"])
    assert (before["has_more"], before["data"]) == (False, found[:-2])
    client.send("POST", "/v1/sessions/a/fork", json={"name": "b"})
    assert said(client, "b")["data"] == found


def test_a_system_prompt_is_no_message_and_a_long_one_is_cut(serve):
    client = serve()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "gull " * 5000}]
    client.send("POST", "/v1/chat/completions", json={"messages": messages, "max_tokens": 2, "session": "a"})
    (found,) = [entry for entry in said(client)["data"] if entry["role"] == "user"]
    assert found["text"].startswith("gull gull")
    assert (len(found["text"]), found["chars"]) == (20_000, 24_999)


def test_a_turn_that_is_being_written_is_left_out():
    asked, answer = Said("user", "Who?", 0, 5), Said("assistant", "The gu", 5, 9)
    assert without_running([asked, answer], " Who? ") == []
    assert without_running([asked, answer, asked], "Who?") == [asked, answer]
    assert without_running([asked, answer], "And then?") == [asked, answer]
    assert without_running([], "Who?") == []


def test_the_memory_says_what_an_answer_read_and_where_it_stands(serve, blocks):
    client = serve(blocks)
    upload(client, "tide.txt", TEXT)
    client.chat("Where did the tide rise?", session="a")
    found = client.send("GET", "/v1/sessions/a/memory").json()
    report = found["report"]
    assert report["seen_tokens"] == report["sink_tokens"] + report["window_tokens"] + report["stored_tokens"]
    assert found["losses"]["given_up"] == 0
    assert (found["blocks"], found["dropped"]) == (report["stored_tokens"] // 8, [])
    assert found["read"]
    for passage in found["read"]:
        assert 0 <= passage["first"] < passage["last"] <= report["seen_tokens"]
        where = {"first": passage["first"], "end": passage["last"], "around": 5}
        text = client.send("GET", "/v1/sessions/a/text", params=where).json()
        assert (text["source"], text["text"]) == ("tide.txt", passage["text"])
        assert text["before"] + text["text"] + text["after"] in TEXT
        assert (text["source_first"], text["start"]) == (0, passage["start"])


def test_what_has_left_for_ever_is_told(serve):
    client = serve()
    upload(client, "tide.txt", TEXT)
    found = client.send("GET", "/v1/sessions/a/memory").json()
    assert found["losses"]["left"] == found["report"]["dropped_tokens"] > 0
    assert (found["blocks"], found["read"]) == (0, [])


@pytest.mark.parametrize("path", ["messages", "memory", "text?first=0&end=1"])
def test_a_session_that_is_not_there_is_404(serve, path):
    answer = serve().send("GET", f"/v1/sessions/none/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    ["messages?limit=0", "text?first=5&end=5", "text?first=-1&end=5", "text?first=0&end=9000", "text?first=0&end=999"],
)
def test_what_is_out_of_range_is_400(serve, path):
    client = serve()
    client.chat("One.", session="a")
    assert client.send("GET", f"/v1/sessions/a/{path}").status_code == 400
