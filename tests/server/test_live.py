"""A server on a port: the official client, several clients at once, those who leave, SIGTERM, kill -9."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import pytest

from everlong import Blocks, Session, Sinks
from everlong.server import run
from everlong.server.service import Service
from everlong.server.settings import ServerSettings
from everlong.session.chat import Chat
from tests.server.conftest import SMALL

SETTINGS = ServerSettings(port=0)


@contextlib.contextmanager
def alive(model, store, method, **settings) -> Iterator[tuple[str, Service]]:
    """A server in a thread; its address and its service."""
    with run.bound(SETTINGS) as sock:
        service = Service(model, method, store, ServerSettings(port=0, **settings))
        ready = threading.Event()
        stopped = threading.Event()
        thread = threading.Thread(target=run.listen, args=(service, sock, ready.set, stopped.wait))
        thread.start()
        try:
            assert ready.wait(10)
            yield run.address(sock), service
        finally:
            stopped.set()
            thread.join(20)


@pytest.fixture
def base(tiny_model, tmp_path):
    with alive(tiny_model, tmp_path, Sinks(sinks=3, window=60)) as (url, _):
        yield url


def test_the_official_client_speaks_to_it(base):
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    said = [{"role": "user", "content": "The tide rose."}]
    asked = {"model": "tiny", "messages": said, "max_tokens": 5, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    assert whole.usage.completion_tokens == 5
    assert whole.usage.model_extra["memory"]["seen_tokens"] > 0
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 5
    kept = client.chat.completions.create(**asked, extra_body={"session": "a"})
    again = client.chat.completions.create(**asked, extra_headers={"x-session-id": "a"})
    assert again.usage.prompt_tokens_details.cached_tokens == kept.usage.model_extra["memory"]["seen_tokens"]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked, n=0)
    assert refused.value.param == "n"
    text = client.completions.create(model="tiny", prompt="The tide", max_tokens=4, logprobs=2)
    assert len(text.choices[0].logprobs.tokens) == text.usage.completion_tokens
    first = client.responses.create(model="tiny", input="The tide rose.", max_output_tokens=5, temperature=0)
    assert first.output_text == whole.choices[0].message.content
    second = client.responses.create(model="tiny", input="And?", max_output_tokens=5, previous_response_id=first.id)
    assert second.usage.input_tokens_details.cached_tokens > 0
    with client.responses.stream(model="tiny", input="The tide rose.", max_output_tokens=5, temperature=0) as events:
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == first.output_text
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="tiny", input="And?", previous_response_id="resp_0")
    assert unknown.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="x")


def test_several_at_once_are_answered_as_each_alone(base, tiny_model):
    texts = [f"Gull {n} cried. " * (3 * n + 1) for n in range(5)]
    expected = []
    for text in texts:
        with Session(tiny_model, Sinks(sinks=3, window=60)) as session:
            expected.append(Chat(session, undo=0).say(text, max_new_tokens=12, temperature=0).text)
    found: dict[int, str] = {}

    def ask(n: int) -> None:
        body = {"messages": [{"role": "user", "content": texts[n]}], "max_tokens": 12, "temperature": 0}
        answer = httpx.post(f"{base}/v1/chat/completions", json=body, timeout=30)
        found[n] = answer.json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(5)] == expected


def test_who_leaves_ends_the_answer(tiny_model, tmp_path):
    with alive(tiny_model, tmp_path, Sinks(sinks=3, window=60)) as (url, service):
        body = {"messages": [{"role": "user", "content": "One."}], "max_tokens": 16000, "stream": True, "session": "a"}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            for _ in range(8):
                next(lines)
        start = time.monotonic()
        while service.worker.jobs and time.monotonic() - start < 5:
            time.sleep(0.01)
        kept = httpx.get(f"{url}/v1/sessions/a").json()
        assert 10 < kept["tokens"] < 2000


def test_sigterm_ends_answers_and_keeps_sessions(tiny_model, tmp_path):
    pieces = []

    def client(url: str) -> None:
        body = {"messages": [{"role": "user", "content": "One."}], "max_tokens": 16000, "stream": True, "session": "a"}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=20) as answer:
            for line in answer.iter_lines():
                pieces.append(line)
                if len(pieces) == 20:
                    os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with run.bound(SETTINGS) as sock:
        service = Service(tiny_model, Sinks(sinks=3, window=60), tmp_path, SETTINGS)
        asking = threading.Thread(target=client, args=(run.address(sock),))
        run.serve(service, sock, asking.start)
        asking.join(10)
    assert signal.getsignal(signal.SIGTERM) is before
    ended = [json.loads(line[6:]) for line in pieces if line.startswith("data: {")][-1]
    assert ended["choices"][0]["finish_reason"] == "stop"
    with Session.open(tmp_path, "a", tiny_model) as session:
        assert session.seen_tokens > 10


def test_what_was_acknowledged_outlives_kill_9(tiny_model, tmp_path):
    with run.bound(SETTINGS) as sock:
        url = run.address(sock)
        child = os.fork()
        if not child:
            service = Service(tiny_model, Blocks(**SMALL), tmp_path, SETTINGS)
            run.serve(service, sock, lambda: None)
            os._exit(0)
    client = httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=5), timeout=20)
    body = {"messages": [{"role": "user", "content": "The tide rose. " * 9}], "max_tokens": 9, "session": "a"}
    try:
        for _ in range(100):
            with contextlib.suppress(httpx.ConnectError):
                client.get("/healthz")
                break
            time.sleep(0.05)
        acknowledged = client.post("/v1/chat/completions", json=body).json()["usage"]["memory"]["seen_tokens"]
        with (
            contextlib.suppress(httpx.HTTPError),
            client.stream("POST", "/v1/chat/completions", json=body | {"stream": True, "max_tokens": 16000}) as answer,
        ):
            next(answer.iter_lines())
            os.kill(child, signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        client.close()
    with alive(tiny_model, tmp_path, Blocks(**SMALL)) as (url, _):
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20).json()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == acknowledged
