"""Many clients at once, of every manner, and a server that is killed meanwhile: each session is what it is alone."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from dataclasses import dataclass, field

import httpx
import pytest

from everlong import Blocks, Session
from everlong.server.settings import Limits
from tests.server.conftest import SMALL, documents
from tests.server.killed import Nursery, client, service

ROUTE = "/v1/chat/completions"
LIMITS = Limits(body_bytes=20_000)
TRIES = 60


@dataclass
class Guest:
    """One client: what it has said in its session, and what went wrong."""

    name: str
    url: str
    requests: int
    said: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    done: int = 0

    def run(self) -> None:
        """Send all requests, one after the other."""
        draw = random.Random(self.name)
        with client() as asking:
            for n in range(self.requests):
                kind = draw.choice(
                    (self.talk, self.talk, self.talk, self.pass_by, self.leave, self.overdo, self.garble)
                )
                try:
                    kind(asking, n, draw)
                except Exception as error:  # noqa: BLE001 (told at the end)
                    self.failed.append(f"{kind.__name__} {n}: {error!r}")
                self.done += 1

    def talk(self, asking: httpx.Client, n: int, draw: random.Random) -> None:
        """A turn in its own session, asked for until it is answered."""
        text = f"Gull {n} of {self.name} cried. " * draw.randrange(1, 4)
        self.until_answered(asking, body(text, session=self.name), f"{self.name}-{n}", stream=draw.random() < 0.5)
        self.said.append(text)

    def pass_by(self, asking: httpx.Client, n: int, draw: random.Random) -> None:
        """A chat that is kept nowhere."""
        self.until_answered(asking, body(f"Number {n}."), None, stream=False)

    def leave(self, asking: httpx.Client, n: int, draw: random.Random) -> None:
        """A turn that is left in its midst and asked for again."""
        text = f"Gull {n} of {self.name} left. "
        said = body(text, session=self.name) | {"stream": True}
        headers = {"Idempotency-Key": f"{self.name}-{n}"}
        with (
            contextlib.suppress(httpx.HTTPError),
            asking.stream("POST", self.url + ROUTE, json=said, headers=headers) as answer,
        ):
            next(answer.iter_lines(), None)
        self.until_answered(asking, said, f"{self.name}-{n}", stream=True)
        self.said.append(text)

    def overdo(self, asking: httpx.Client, n: int, draw: random.Random) -> None:
        """A body that is too large."""
        self.refused(asking, json.dumps(body("x" * 30_000, session=self.name)), 413)

    def garble(self, asking: httpx.Client, n: int, draw: random.Random) -> None:
        """What is no JSON, or no request."""
        self.refused(
            asking, draw.choice(('{"messages": [', "[]", '{"messages": 3}', '{"messages": [{"role": "x"}]}')), 400
        )

    def refused(self, asking: httpx.Client, content: str, status: int) -> None:
        """Send what is to be refused."""
        for _ in range(TRIES):
            with contextlib.suppress(httpx.HTTPError):
                answer = asking.post(self.url + ROUTE, content=content)
                assert answer.status_code == status, answer.text
                return
            time.sleep(0.1)
        raise AssertionError("no answer")

    def until_answered(self, asking: httpx.Client, said: dict, key: str | None, stream: bool) -> None:
        """Ask until the last event has come."""
        headers = {} if key is None else {"Idempotency-Key": key}
        for _ in range(TRIES):
            with contextlib.suppress(httpx.HTTPError):
                answer = asking.post(self.url + ROUTE, json=said | {"stream": stream}, headers=headers)
                if answer.status_code == 200 and (not stream or "data: [DONE]" in answer.text):
                    return
                # A server that ends says so; everything else is wrong.
                assert stream or answer.status_code in (429, 500), answer.text
            time.sleep(0.1)
        raise AssertionError("no answer")


def body(text, **fields):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 6, "temperature": 0, "again": 0} | fields


def begun(model, store):
    return lambda: service(model, Blocks(**SMALL), store, 150, limits=LIMITS, make_document=documents)


def crowd(model, store, clients, requests, kills):
    """Clients at once and kills among their requests; the guests, and the server's memory in the middle and behind."""
    nursery = Nursery(begun(model, store))
    guests = [Guest(f"guest-{n}", nursery.url, requests) for n in range(clients)]
    threads = [threading.Thread(target=guest.run) for guest in guests]
    total = clients * requests
    # The last two fifths are without kills, so that memory can be compared.
    places = [total * 3 // 5 * (n + 1) // (kills + 1) for n in range(kills)]
    resident = {}
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        done = sum(guest.done for guest in guests)
        if places and done >= places[0]:
            places.pop(0)
            nursery.kill()
        for share in (0.8, 0.99):
            if done >= share * total and share not in resident:
                resident[share] = nursery.resident_bytes()
        time.sleep(0.01)
    resident.setdefault(0.99, nursery.resident_bytes())
    assert not places
    assert httpx.get(f"{nursery.url}/healthz", timeout=30).status_code == 200
    nursery.close()
    return guests, resident


def ids(model, store, name):
    with Session.open(store, name, model, read_only=True) as session:
        return session.transcript.ids.tolist()


def check(model, tmp_path, guests):
    """Each session is what it is where nobody else asks and nothing is killed."""
    assert [guest.failed for guest in guests] == [[] for _ in guests]
    nursery = Nursery(begun(model, tmp_path / "alone"))
    with client() as asking:
        for guest in guests:
            for text in guest.said:
                answer = asking.post(nursery.url + ROUTE, json=body(text, session=guest.name))
                assert answer.status_code == 200, answer.text
    nursery.close()
    for guest in guests:
        assert ids(model, tmp_path / "alone", guest.name) == ids(model, tmp_path / "crowd", guest.name), guest.name


@pytest.mark.heavy(reason="three servers: of clients at once, of the next after a kill, and of each alone")
def test_sessions_of_a_crowd_are_what_they_are_alone(tiny_model, tmp_path):
    guests, _ = crowd(tiny_model, tmp_path / "crowd", clients=3, requests=5, kills=1)
    check(tiny_model, tmp_path, guests)


@pytest.mark.slow(reason="five hundred requests and twenty kills")
def test_sessions_of_a_large_crowd_are_what_they_are_alone(tiny_model, tmp_path):
    guests, resident = crowd(tiny_model, tmp_path / "crowd", clients=16, requests=32, kills=20)
    check(tiny_model, tmp_path, guests)
    assert abs(resident[0.99] / resident[0.8] - 1) < 0.05
