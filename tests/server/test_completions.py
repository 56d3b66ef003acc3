"""Completions: texts and ids gone on from, as `generate` does, and scored as `score` does."""

from __future__ import annotations

import json
import shutil

import pytest

from everlong import Dense, Session, Sinks
from everlong.library.kept_text import whole_transcript
from everlong.library.library import Library
from everlong.server import open_sessions
from everlong.session import search as searching
from tests.server.test_load import soon


def complete(client, prompt, **fields):
    body = {"prompt": prompt, "max_tokens": 5, "temperature": 0} | fields
    return client.send("POST", "/v1/completions", json=body)


def test_texts_and_ids_are_gone_on_from_as_by_generate(serve, tiny_model):
    client = serve()
    texts = ["The tide", "Gulls cried over the pier. " * 4]
    expected = []
    for text in texts:
        with Session(tiny_model, Sinks(sinks=3, window=60)) as session:
            expected.append(session.generate(text, max_new_tokens=5).text)
    answer = complete(client, texts).json()
    assert [choice["text"] for choice in answer["choices"]] == expected
    ids = [tiny_model.tokenizer(text).input_ids for text in texts]
    assert [choice["text"] for choice in complete(client, ids).json()["choices"]] == expected
    assert complete(client, ids[0]).json()["choices"][0]["text"] == expected[0]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))


def test_an_echoed_prompt_is_scored(serve, tiny_model):
    client = serve(Dense())
    text = "The tide rose and fell."
    answer = complete(client, text, echo=True, logprobs=1, max_tokens=0).json()["choices"][0]
    with Session(tiny_model, Dense()) as session:
        expected = session.score(text)
    assert answer["text"] == text
    assert answer["logprobs"]["token_logprobs"][0] is None
    assert answer["logprobs"]["token_logprobs"][1:] == pytest.approx(expected[1:].tolist(), abs=1e-4)
    assert all(len(top) == 1 for top in answer["logprobs"]["top_logprobs"][1:])
    assert "".join(answer["logprobs"]["tokens"]) == text
    both = complete(client, text, echo=True, logprobs=1, max_tokens=3).json()["choices"][0]
    assert both["text"].startswith(text)
    assert len(both["logprobs"]["tokens"]) == len(expected) + 3


def test_a_streamed_completion_is_the_whole_one(serve):
    client = serve()
    whole = complete(client, "The tide", n=2, temperature=1, seed=4).json()
    lines = complete(client, "The tide", n=2, temperature=1, seed=4, stream=True).text.split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    for n in range(2):
        parts = [e["choices"][0] for e in events if e["choices"][0]["index"] == n]
        assert "".join(part["text"] for part in parts) == whole["choices"][n]["text"]
        assert parts[-1]["finish_reason"] == whole["choices"][n]["finish_reason"]


def test_a_session_is_gone_on_with(serve):
    client = serve()
    first = complete(client, "The tide", session="a").json()["usage"]
    second = complete(client, " and", session="a").json()["usage"]
    assert second["prompt_tokens_details"]["cached_tokens"] == first["memory"]["seen_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 99}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "stream": True}, "stream"),
        ({"prompt": ["a", "b"], "session": "a"}, "prompt"),
    ],
)
def test_what_cannot_be_honoured_is_refused(serve, fields, param):
    answer = complete(serve(), **({"prompt": "One"} | fields))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_ids_outside_the_vocabulary_fail_alone(serve):
    client = serve()
    assert complete(client, [99999]).status_code == 400
    assert complete(client, "One").status_code == 200


def soon_idle(client):
    """Wait until no job is left: a checkpoint may follow an answer."""
    assert soon(lambda: client.service.worker.jobs == 0)


@pytest.mark.parametrize("fields", [{}, {"n": 2, "temperature": 1, "seed": 1}, {"echo": True, "logprobs": 0}])
def test_what_is_gone_on_with_in_a_session_is_in_its_journal(serve, blocks, tiny_model, tmp_path, monkeypatch, fields):
    client = serve(blocks)
    complete(client, "Gulls cried over the pier. " * 40, session="a")
    soon_idle(client)
    kept = client.service.kept
    written = kept.entry("a").tokens
    assert written > 0
    assert complete(client, "And who followed them?", session="a", **fields).status_code == 200
    soon_idle(client)
    session = kept.peek("a")
    assert kept.entry("a").tokens == written < session.seen_tokens
    assert [end for end, _ in session.keeping.notes] == [session.seen_tokens]
    # As a killed server leaves its store.
    store = tmp_path / "killed"
    for part in ("sessions", "blocks"):
        shutil.copytree(kept.library.folder / part, store / part)
    for file in kept.library.folder.glob("everlong.db*"):
        shutil.copy(file, store)
    library = Library(store)
    entry = library.entry("a")
    assert library.tokens(entry) == session.seen_tokens
    transcript = whole_transcript(library, entry, tiny_model.tokenizer)
    assert transcript.ids == session.transcript.ids
    sources = [(s.name, s.first) for s in session.transcript.sources]
    assert [(s.name, s.first) for s in transcript.sources] == sources
    assert [(s.name, s.first) for s in library.sources(entry)] == sources
    assert transcript.text(0, entry.tokens + 5) == session.transcript.text(0, entry.tokens + 5)
    looked: list[int] = []
    monkeypatch.setattr(searching, "search", lambda read, *_: looked.append(len(read.ids)) or [])
    assert searching.search_kept(library, entry, tiny_model.tokenizer, "gulls", 1) == []
    assert looked == [session.seen_tokens]
    with Session.open(store, "a", tiny_model) as opened:
        assert opened.transcript.ids == session.transcript.ids
        assert [(s.name, s.first) for s in opened.transcript.sources] == sources
        assert opened.prediction == pytest.approx(session.prediction, abs=1e-4)


def test_a_completion_and_chat_share_a_session(serve, blocks):
    client = serve(blocks)
    client.chat("One.", session="a")
    after = complete(client, "The tide", session="a").json()["usage"]["memory"]["seen_tokens"]
    client.chat("Two.", session="a")
    soon_idle(client)
    assert client.send("POST", "/v1/sessions/a/rewind", json={"turns": 1}).json()["tokens"] == after
    again = client.chat("Two.", session="a").json()["usage"]
    assert again["prompt_tokens_details"]["cached_tokens"] == after


def test_a_chat_behind_a_completion_is_taken_back_from_a_state_too(serve, blocks):
    client = serve(blocks)
    client.chat("One.", session="a")
    after = complete(client, "The tide", session="a").json()["usage"]["memory"]["seen_tokens"]
    client.chat("Two.", session="a")
    soon_idle(client)
    assert client.send("PATCH", "/v1/sessions/a", json={"name": "b"}).status_code == 200  # which writes a state
    assert client.send("POST", "/v1/sessions/b/rewind", json={"turns": 1}).json()["tokens"] == after


def test_states_are_written_behind_completions(serve, blocks, monkeypatch):
    """A restart has little to read again, however long a session is gone on with."""
    monkeypatch.setattr(open_sessions, "STATE_TOKENS", 20)
    client = serve(blocks)
    held = set()
    for _ in range(8):
        assert complete(client, "The tide rose over the pier.", session="a").status_code == 200
        soon_idle(client)
        held.add(client.service.kept.entry("a").tokens)
    assert len(held) > 2
