"""A server's engine in this process, with what it takes to ask it and to see when each token was there."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import httpx

import everlong
from everlong.methods.base import make_method
from everlong.server.app import create_app
from everlong.server.service import Service
from everlong.server.settings import ServerSettings
from everlong.session.ingest import Document

TEXT = "\n\n".join(topics.values())
"""What is read: the reference text of this Python, some 113,000 tokens."""
SHORT_CHARS = 3_800


@dataclass
class Stamp:
    """When a token was there: by the clock without waits for a processor, and in CPU seconds of the thread."""

    wall_s: float
    cpu_s: float


def stamp() -> Stamp:
    """Now, in this thread."""
    _, waited_ns, _ = Path("/proc/thread-self/schedstat").read_text(encoding="utf-8").split()
    return Stamp(time.perf_counter() - int(waited_ns) / 1e9, time.thread_time())


@dataclass
class Watch:
    """Takes down when each token of each answer was there, by the key of its request."""

    service: Service
    tokens: dict[int, list[Stamp]] = field(default_factory=dict)
    told: Callable[[int], None] = lambda key: None
    """Called at the first token of an answer."""

    def __post_init__(self) -> None:
        engine = self.service.worker.engine
        step = engine.step

        def watched() -> bool:
            requests = dict(engine.requests)
            found = step()
            now = stamp()
            for key, request in requests.items():
                stamps = self.tokens.setdefault(key, [])
                if request.written is not None and len(request.written.token_ids) > len(stamps):
                    stamps.append(now)
                    if len(stamps) == 1:
                        self.told(key)
            return found

        engine.step = watched

    def of_newest(self) -> list[Stamp]:
        """The tokens of the answer that was begun last."""
        return self.tokens[max(self.tokens)]


class Asked:
    """Sends requests to a service in this process, each in a task of one loop in a thread of its own."""

    def __init__(self, service: Service) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None)

    def begin(self, method: str, path: str, **fields: Any) -> Any:
        """A request that goes on by itself; its `result()` is the answer."""
        return asyncio.run_coroutine_threadsafe(self.http.request(method, path, **fields), self.loop)

    def ask(self, method: str, path: str, **fields: Any) -> Any:
        """What is answered."""
        answer = self.begin(method, path, **fields).result()
        if answer.status_code >= 300:
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()


def talk(tokens: int, end: int, text: str = "Tell a long story of a gull.", **fields: Any) -> dict[str, Any]:
    """The body of a chat whose answer has so many tokens."""
    said = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
    return said | {"logit_bias": {str(end): -100}} | fields


def gaps(stamps: Sequence[Stamp], of: str) -> list[float]:
    """Milliseconds between the tokens."""
    times = [getattr(s, f"{of}_s") for s in stamps]
    return [1000 * (b - a) for a, b in pairwise(times)]


def told(found: Sequence[float], idle_ms: float) -> dict[str, float]:
    """Gaps in idle gaps: the median, those that one of ten and of a hundred pass, and the longest."""
    ordered = sorted(found)
    at = {"median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}
    return {
        key: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] / idle_ms, 2) for key, share in at.items()
    }


def document(path: Path, name: str) -> Document:
    """An uploaded text."""
    return Document(name, f"{hashlib.sha256(path.read_bytes()).hexdigest()}:{path.stat().st_size}", [path.read_text()])


class Bench:
    """A service with its watch, and what all of the measurements need of it."""

    def __init__(self, args: argparse.Namespace, method: str, **settings: Any) -> None:
        self.args = args
        loaded = everlong.load(args.model, dtype=args.dtype)
        self.end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
        store = args.store / method
        self.service = Service(
            loaded, make_method(method, {}), store, ServerSettings(make_document=document, **settings)
        )
        self.watch = Watch(self.service)
        self.asked = Asked(self.service)

    def prepare(self) -> None:
        """Have the kept sessions `long` and `short`: read now, in minutes, where they are not there."""
        known = {one["id"] for one in self.asked.ask("GET", "/v1/sessions")["data"]}
        for name, text in (("short", TEXT[:SHORT_CHARS]), ("long", TEXT)):
            if name not in known:
                files = {"file": (f"{name}.txt", text.encode())}
                self.asked.ask("POST", f"/v1/sessions/{name}/documents", files=files)

    def copied(self, name: str, count: int = 1) -> list[str]:
        """Copies of a kept session, closed."""
        return [self.asked.ask("POST", f"/v1/sessions/{name}/fork", json={})["id"] for _ in range(count)]

    def forget(self, names: Sequence[str]) -> None:
        """Delete copies."""
        for name in names:
            self.asked.ask("DELETE", f"/v1/sessions/{name}")

    @contextmanager
    def talking(self, tokens: int, **fields: Any) -> Iterator[Callable[[], list[Stamp]]]:
        """An answer that is being written, past its first tokens; gives its stamps so far, and ends it."""
        known = set(self.watch.tokens)
        answer = self.asked.begin("POST", "/v1/chat/completions", json=talk(tokens, self.end, **fields))
        while not (new := set(self.watch.tokens) - known) or len(self.watch.tokens[min(new)]) < 8:
            time.sleep(0.02)
        key = min(new)
        yield lambda: list(self.watch.tokens[key])
        answer.cancel()
        while any(not r.done for r in list(self.service.worker.engine.requests.values())):
            time.sleep(0.02)
