"""A server over a tiny random model, asked in this process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from everlong import Blocks, Sinks
from everlong.models.load import Loaded
from everlong.server.app import create_app
from everlong.server.service import Service
from everlong.server.settings import ServerSettings
from everlong.session.ingest import Document
from tests.session.conftest import byte_level

SMALL = {"sinks": 2, "window": 24, "block": 8, "top_k": 2, "repr_topk": 4, "exec_chunk": 32, "pool": 8}


def documents(path: Path, name: str) -> Document:
    """An uploaded file of plain text as a document."""
    return Document(name, f"{hashlib.sha256(path.read_bytes()).hexdigest()}:{path.stat().st_size}", [path.read_text()])


class Client:
    """Sends requests to a service in this process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = create_app(service)

    def send(self, method: str, path: str, **fields: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
                return await client.request(method, path, **fields)

        return asyncio.run(asyncio.wait_for(sent(), 60))

    def chat(self, *said: str, **fields: Any) -> httpx.Response:
        """Ask; what is said is the user's and the assistant's by turns."""
        roles = ("user", "assistant")
        messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
        return self.send(
            "POST",
            "/v1/chat/completions",
            json={"messages": messages, "max_tokens": 6, "temperature": 0} | fields,
        )


@pytest.fixture(scope="session")
def tiny_model(tiny_llama: Any) -> Loaded:
    """A tiny random Llama with a tokenizer that has a chat template."""
    tokenizer = byte_level()
    return Loaded(tiny_llama(vocab_size=len(tokenizer)), tokenizer, "tiny")


@pytest.fixture
def serve(tiny_model: Loaded, tmp_path: Any) -> Iterator[Callable[..., Client]]:
    """Starts a service; all are closed at the end."""
    begun: list[Service] = []

    def start(method: Any = None, **settings: Any) -> Client:
        service = Service(
            tiny_model,
            method or Sinks(sinks=3, window=60),
            tmp_path,
            ServerSettings(make_document=documents, **settings),
        )
        begun.append(service)
        return Client(service)

    yield start
    for service in begun:
        service.close()


@pytest.fixture
def blocks() -> Blocks:
    """Block memory for the tiny model."""
    return Blocks(**SMALL)
