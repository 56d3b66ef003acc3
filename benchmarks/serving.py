"""A server's engine measured in this process: gaps of a stream that talks while others work, first tokens, streams.

    python benchmarks/serving.py sessions --store STORE --out FILE

`sessions`: gaps of an answer that is written while other sessions are opened, made and parked. `reading`: while a text
is read. `follow-up`: the first token of a question to a long session against that to a short one, open and parked.
`streams`: eight answers at once against one. STORE has the kept sessions `long` and `short`, as `everlong read` made
them; they are asked in copies.

A gap is the time between two tokens of one answer. `wall` is that on the clock without what the engine's thread waited
for a processor while others had it (schedstat); `cpu` is what that thread computed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import torch

import everlong
from everlong.machine import circumstances
from everlong.methods.base import make_method
from everlong.server.app import create_app
from everlong.server.service import Service
from everlong.server.settings import ServerSettings
from everlong.session.ingest import Document

IDLE_TOKENS = 60
"""Tokens of an answer alone that tell what an idle gap is."""


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

    def __init__(self, args: argparse.Namespace, **settings: Any) -> None:
        self.args = args
        loaded = everlong.load(args.model, dtype=args.dtype)
        self.end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
        method = make_method(args.method, {})
        self.service = Service(loaded, method, args.store, ServerSettings(make_document=document, **settings))
        self.watch = Watch(self.service)
        self.asked = Asked(self.service)

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


def sessions(bench: Bench) -> list[dict[str, Any]]:
    """Gaps while sessions are opened, made, parked: each done several times beside one long answer."""
    rows = []
    rounds = bench.args.rounds
    ask = bench.asked.ask
    for what in ("long", "short"):
        names = bench.copied(what, rounds)
        with bench.talking(16_000) as stamps:
            idle = _idle(stamps)
            opened = _during(stamps, [lambda n=n: ask("GET", f"/v1/sessions/{n}") for n in names])
            rows.append({"what": f"open {what}"} | _row(opened, idle))
            for n in names:
                ask("POST", "/v1/chat/completions", json=talk(1, bench.end, session=n, again=0))
            parked = _during(
                stamps, [lambda n=n: ask("PATCH", f"/v1/sessions/{n}", json={"name": f"{n}-x"}) for n in names]
            )
            rows.append({"what": f"park {what} (rename)"} | _row(parked, idle))
        bench.forget([f"{n}-x" for n in names])
    with bench.talking(16_000) as stamps:
        idle = _idle(stamps)
        names = [f"made-{n}" for n in range(rounds)]
        made = _during(stamps, [lambda n=n: ask("POST", "/v1/sessions", json={"name": n}) for n in names])
        rows.append({"what": "create"} | _row(made, idle))
        forked = _during(
            stamps, [lambda n=n: ask("POST", "/v1/sessions/long/fork", json={"name": f"{n}-f"}) for n in names]
        )
        rows.append({"what": "fork long"} | _row(forked, idle))
        gone = _during(stamps, [lambda n=n: ask("DELETE", f"/v1/sessions/{n}-f") for n in names])
        rows.append({"what": "delete"} | _row(gone, idle))
    bench.forget(names)
    return rows


def _idle(stamps: Callable[[], list[Stamp]]) -> list[Stamp]:
    while len(stamps()) < IDLE_TOKENS:
        time.sleep(0.05)
    return stamps()


def _during(
    stamps: Callable[[], list[Stamp]], works: Sequence[Callable[[], Any]]
) -> tuple[list[list[Stamp]], list[float]]:
    """The stamps while each of these is done, and the seconds each took."""
    found = []
    took = []
    for work in works:
        before = len(stamps())
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
        now = len(stamps())
        while len(stamps()) < now + 2:
            time.sleep(0.01)
        found.append(stamps()[before - 1 :])
    return found, took


def _row(measured: tuple[list[list[Stamp]], list[float]], idle: list[Stamp]) -> dict[str, Any]:
    """The longest gap of each time, in idle gaps: medians, and the longest of all."""
    stamps, took = measured
    row: dict[str, Any] = {"times": len(took), "took_s": round(statistics.median(took), 3)}
    for of in ("wall", "cpu"):
        idle_ms = statistics.median(gaps(idle, of))
        most = [max(gaps(found, of)) / idle_ms for found in stamps]
        row |= {f"idle_{of}_ms": round(idle_ms, 1), f"longest_{of}": round(statistics.median(most), 2)}
        row[f"most_{of}"] = round(max(most), 2)
    return row


QUESTION = "What does the statement that begins with try do?"


def follow_up(bench: Bench) -> list[dict[str, Any]]:
    """Seconds to the first token of a question: to a session that is parked, then to the same one, open."""
    rows: list[dict[str, Any]] = []
    for again in (None, 0):
        for name in ("short", "long"):
            names = bench.copied(name, bench.args.rounds)
            for state in ("parked", "open"):
                took = [_first_token(bench, n, again) for n in names]
                row = {"session": name, "state": state, "again": again, "times": len(took)}
                for n, of in enumerate(("cpu_s", "wall_s")):
                    row[of] = round(statistics.median(times[n] for times in took), 3)
                rows.append(row)
            bench.forget(names)
    return rows


def _first_token(bench: Bench, name: str, again: int | None) -> tuple[float, float]:
    """CPU seconds of the process, and seconds by the clock, from a request to the first token of its answer."""
    known = set(bench.watch.tokens)
    first: list[tuple[float, float]] = []
    bench.watch.told = lambda key: (
        first.append((time.process_time(), time.perf_counter())) if key not in known else None
    )
    begun = time.process_time(), time.perf_counter()
    bench.asked.ask("POST", "/v1/chat/completions", json=talk(2, bench.end, QUESTION, session=name, again=again))
    bench.watch.told = lambda key: None
    return first[0][0] - begun[0], first[0][1] - begun[1]


def reading(bench: Bench) -> list[dict[str, Any]]:
    """Gaps of an answer over `--tokens` tokens while a text is read, and how fast it was read beside it."""
    files = {"file": (bench.args.text.name, bench.args.text.read_bytes())}
    with bench.talking(16_000) as stamps:
        idle = _idle(stamps)
        before = len(stamps())
        upload = bench.asked.begin("POST", "/v1/sessions/read-beside/documents", files=files)
        kept = bench.service.kept
        # The first gaps are those in which the session is made and the pace is found.
        while (session := kept.peek("read-beside")) is None or not session.seen_tokens:
            time.sleep(0.05)
        first = session.seen_tokens, time.process_time()
        while len(stamps()) < before + bench.args.tokens and not upload.done():
            time.sleep(0.2)
        read = session.seen_tokens - first[0]
        took_s = time.process_time() - first[1]
        found = stamps()[before - 1 :]
        upload.cancel()
    bench.forget(["read-beside"])
    row: dict[str, Any] = {
        "gaps": len(found) - 1,
        "read_tokens": read,
        "read_tokens_per_cpu_s": round(read / took_s, 1),
    }
    for of in ("wall", "cpu"):
        idle_ms = statistics.median(gaps(idle, of))
        row |= {f"idle_{of}_ms": round(idle_ms, 1), of: told(gaps(found, of), idle_ms)}
    longest = sorted(zip(gaps(found, "wall"), gaps(found, "cpu"), range(len(found)), strict=False), reverse=True)[:8]
    row["longest"] = [{"wall_ms": round(w, 1), "cpu_ms": round(c, 1), "gap": n} for w, c, n in longest]
    return [row]


def streams(bench: Bench) -> list[dict[str, Any]]:
    """Tokens of answers in a CPU second of the process, over HTTP forms: of one, and of eight at once, in turns."""
    rates: dict[int, list[float]] = {1: [], 8: []}
    for turn in range(bench.args.rounds):
        for count, found in rates.items():
            texts = [f"Tell a long story of gull number {turn * 8 + n}." for n in range(count)]
            begun = time.process_time()
            body = [talk(bench.args.tokens, bench.end, text, again=0) for text in texts]
            answers = [bench.asked.begin("POST", "/v1/chat/completions", json=one) for one in body]
            written = sum(answer.result().json()["usage"]["completion_tokens"] for answer in answers)
            found.append(written / (time.process_time() - begun))
    one, eight = (statistics.median(rates[count]) for count in (1, 8))
    return [{"one_tokens_per_cpu_s": round(one, 1), "eight": round(eight, 1), "ratio": round(eight / one, 2),
             "ratios": [round(b / a, 2) for a, b in zip(rates[1], rates[8], strict=True)]}]  # fmt: skip


MEASURES: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "sessions": sessions,
    "follow-up": follow_up,
    "reading": reading,
    "streams": streams,
}


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--method", default="blocks")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--text", type=Path, help="what is read (reading)")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(args)
    rows = MEASURES[args.what](bench)
    bench.service.close()
    for row in rows:
        print(json.dumps(row), flush=True)
    if args.out:
        record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "rows": rows}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
