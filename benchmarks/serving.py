"""A server's engine measured in this process: gaps of a stream that talks while others work, first tokens, streams.

    python benchmarks/serving.py --store FOLDER --out benchmarks/results/serving.json

`reading`: gaps of an answer while a text is read. `follow-up`: the first token of a question to a long session against
that to a short one, open and parked. `streams`: eight answers at once against one. `idle`: eight answers with 24 more
sessions open, and what these take in memory. `sessions` (only when named): gaps of an answer that is written while
other sessions are opened, made and parked. FOLDER keeps the sessions that are asked, in copies; they are read the first
time, which takes minutes.

A gap is the time between two tokens of one answer. `wall` is that on the clock without what the engine's thread waited
for a processor while others had it (schedstat); `cpu` is what that thread computed.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from serving_bench import TEXT, Bench, Stamp, gaps, talk, told

from everlong.machine import circumstances

IDLE_TOKENS = 60
"""Tokens of an answer alone that tell what an idle gap is."""
IDLE_SESSIONS = 24
ALONE_S = 20.0
"""CPU seconds for which a text is read with nothing beside it."""


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
    """Gaps of an answer over `--tokens` tokens while a text is read, and how fast it was read beside it, and alone."""
    kept = bench.service.kept

    def read_for(happens: Callable[[], bool]) -> tuple[int, float]:
        """Tokens read, and CPU seconds of the process, until something happens."""
        upload = bench.asked.begin(
            "POST", "/v1/sessions/read-beside/documents", files={"file": ("text", TEXT.encode())}
        )
        # The first gaps are those in which the session is made and the pace is found.
        while (session := kept.peek("read-beside")) is None or not session.seen_tokens:
            time.sleep(0.05)
        first = session.seen_tokens, time.process_time()
        while not happens() and not upload.done():
            time.sleep(0.2)
        found = session.seen_tokens - first[0], time.process_time() - first[1]
        upload.cancel()
        return found

    with bench.talking(16_000) as stamps:
        idle = _idle(stamps)
        before = len(stamps())
        read, took_s = read_for(lambda: len(stamps()) >= before + bench.args.tokens)
        found = stamps()[before - 1 :]
    bench.forget(["read-beside"])
    end = time.process_time() + ALONE_S
    alone, alone_s = read_for(lambda: time.process_time() > end)
    bench.forget(["read-beside"])
    # What the answer's tokens took is none of reading.
    took_s -= (len(found) - 1) * statistics.median(gaps(idle, "cpu")) / 1000
    row: dict[str, Any] = {"gaps": len(found) - 1, "read_tokens": read, "of_its_speed_alone": 0.0}
    row["of_its_speed_alone"] = round(read / took_s / (alone / alone_s), 2)
    row |= {"read_tokens_per_cpu_s": round(read / took_s, 1), "alone": round(alone / alone_s, 1)}
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
            found.append(_rate(bench, count, turn))
    one, eight = (statistics.median(rates[count]) for count in (1, 8))
    ratios = [round(b / a, 2) for a, b in zip(rates[1], rates[8], strict=True)]
    return [{"one": round(one, 1), "eight": round(eight, 1), "ratio": round(eight / one, 2), "ratios": ratios}]


def _rate(bench: Bench, count: int, turn: int) -> float:
    """Tokens written in a CPU second by so many answers at once, from the first tokens of all to their ends.

    What their prompts take is not counted: it is measured by other answers, of one token.
    """
    took = []
    for tokens in (1, bench.args.written):
        texts = [f"Tell a long story of gull number {turn * 8 + n}, in {tokens} words." for n in range(count)]
        begun = time.process_time()
        bodies = [talk(tokens, bench.end, text, again=0) for text in texts]
        answers = [bench.asked.begin("POST", "/v1/chat/completions", json=body) for body in bodies]
        written = sum(answer.result().json()["usage"]["completion_tokens"] for answer in answers)
        took.append((written, time.process_time() - begun))
    return (took[1][0] - took[0][0]) / (took[1][1] - took[0][1])


def idle(bench: Bench) -> list[dict[str, Any]]:
    """Eight answers at once beside open sessions that nobody asks, and before and after; what these take in memory."""
    names = [f"idle-{n}" for n in range(IDLE_SESSIONS)]
    rounds = range(bench.args.rounds)
    without = [_rate(bench, 8, turn) for turn in rounds]
    resident, counted = _resident_bytes(), bench.service.kept.open.bytes
    for name in names:
        bench.asked.ask("POST", "/v1/chat/completions", json=talk(8, bench.end, session=name, again=0))
    resident, counted = _resident_bytes() - resident, bench.service.kept.open.bytes - counted
    beside = [_rate(bench, 8, turn) for turn in rounds]
    there = len(bench.service.kept.open)
    bench.forget(names)
    without += [_rate(bench, 8, turn) for turn in rounds]
    row = {"open_sessions": there, "without": round(statistics.median(without), 1)}
    row |= {"beside": round(statistics.median(beside), 1)}
    row["time_per_token"] = round(statistics.median(without) / statistics.median(beside), 3)
    row |= {"counted_mb": round(counted / 1e6, 1), "resident_mb": round(resident / 1e6, 1)}
    return [row]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


MEASURES: dict[str, Callable[[Bench], list[dict[str, Any]]]] = {
    "reading": reading,
    "follow-up": follow_up,
    "streams": streams,
    "idle": idle,
    "sessions": sessions,
}
METHODS = {"streams": ("sinks", "blocks")}
"""What is measured with other methods than blocks."""


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASURES)}; all but sessions if not given")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1000, help="gaps that are measured while a text is read")
    parser.add_argument("--written", type=int, default=61, help="tokens of each of the answers at once")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if unknown := set(args.what) - set(MEASURES):
        parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(MEASURES)}")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for what in args.what or [name for name in MEASURES if name != "sessions"]:
        for method in METHODS.get(what, ("blocks",)):
            bench = Bench(args, method)
            if what in ("follow-up", "sessions"):
                bench.prepare()
            for row in MEASURES[what](bench):
                rows.append({"measure": what, "method": method} | row)
                print(json.dumps(rows[-1]), flush=True)
            bench.service.close()
            if args.out:  # each time, so that what was measured is kept where it is cut off
                record = {"command": " ".join(sys.argv), "circumstances": circumstances(), "rows": rows}
                args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
