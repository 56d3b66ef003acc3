"""Documents that are uploaded: read once, resumed where reading was cut off, asked about and cited."""

from __future__ import annotations

import json

from everlong.server.document_routes import file_name

TEXT = "The tide rose over the harbour and the gulls cried. " * 12


def upload(client, name, text, session="a", **form):
    return client.send("POST", f"/v1/sessions/{session}/documents", files={"file": (name, text)}, data=form)


def test_a_document_is_read_once_and_cited(serve, blocks):
    client = serve(blocks)
    first = upload(client, "tide.txt", TEXT).json()
    assert first["read_tokens"] == first["memory"]["seen_tokens"] > 100
    assert upload(client, "tide.txt", TEXT).json()["read_tokens"] == 0
    found = client.send("GET", "/v1/sessions/a").json()
    assert [source["name"] for source in found["sources"]] == ["tide.txt"]
    answer = client.chat("Where did the tide rise?", session="a").json()
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == first["read_tokens"]
    cited = client.send("GET", "/v1/sessions/a/citations").json()["data"]
    assert all(c["source"] and c["text"] for c in cited)


def test_progress_is_told_while_a_document_is_read(serve, blocks):
    client = serve(blocks)
    answer = upload(client, "tide.txt", TEXT * 20, stream="true")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    told = [event["tokens"] for event in events if event["type"] == "document.progress"]
    assert told == sorted(told)
    assert len(told) > 1
    assert events[-1]["type"] == "documents.read"
    assert events[-1]["read_tokens"] == told[-1]


def test_what_is_no_document_is_refused(serve):
    client = serve()
    assert upload(client, "empty.txt", "").status_code == 400
    answer = client.send("POST", "/v1/sessions/a/documents", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert client.send("POST", "/v1/sessions/.a/documents", files={"file": ("a", "x")}).status_code == 400


def test_a_file_name_is_no_path():
    assert file_name("../../etc/passwd") == "passwd"
    assert file_name("C:\\x\\note.txt") == "note.txt"
    assert file_name("a\x00b\n.txt") == "ab.txt"
    assert file_name("../") == "upload"
